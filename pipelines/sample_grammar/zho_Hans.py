"""Chinese, simplified: abstract sentences in, text out. Measure words, aspect, topic order; no spaces."""

from pipelines import sample_grammar as g

PERSONS = {
    "teacher": "老师",
    "doctor": "医生",
    "nurse": "护士",
    "farmer": "农民",
    "fisherman": "渔夫",
    "student": "女学生",
    "neighbour": "邻居",
    "driver": "司机",
    "cook": "厨师",
    "singer": "女歌手",
    "writer": "作家",
    "engineer": "工程师",
    "boy": "男孩",
    "girl": "女孩",
    "old man": "老爷爷",
    "old woman": "老奶奶",
    "mother": "我妈妈",
    "father": "我爸爸",
    "sister": "我姐姐",
    "brother": "我哥哥",
    "grandmother": "我奶奶",
    "friend": "我朋友",
    "daughter": "我女儿",
    "uncle": "我叔叔",
}
# measure word, noun
NOUNS = {
    "book": ("本", "书"),
    "letter": ("封", "信"),
    "newspaper": ("份", "报纸"),
    "cup": ("个", "杯子"),
    "plate": ("个", "盘子"),
    "pot": ("口", "锅"),
    "bottle": ("个", "瓶子"),
    "knife": ("把", "刀"),
    "spoon": ("把", "勺子"),
    "shirt": ("件", "衬衫"),
    "hat": ("顶", "帽子"),
    "dress": ("条", "连衣裙"),
    "blanket": ("条", "毯子"),
    "bicycle": ("辆", "自行车"),
    "car": ("辆", "汽车"),
    "clock": ("个", "闹钟"),
    "phone": ("部", "手机"),
    "lamp": ("盏", "灯"),
    "boat": ("艘", "船"),
    "umbrella": ("把", "雨伞"),
    "guitar": ("把", "吉他"),
    "table": ("张", "桌子"),
    "chair": ("把", "椅子"),
    "bed": ("张", "床"),
    "mirror": ("面", "镜子"),
    "carpet": ("块", "地毯"),
    "box": ("个", "箱子"),
    "bag": ("个", "包"),
    "basket": ("个", "篮子"),
    "key": ("把", "钥匙"),
    "picture": ("幅", "画"),
}
# before a noun
ADJECTIVES = {
    "red": "红色的",
    "white": "白色的",
    "black": "黑色的",
    "blue": "蓝色的",
    "green": "绿色的",
    "big": "大",
    "small": "小",
    "new": "新",
    "old": "旧",
    "expensive": "昂贵的",
    "cheap": "便宜的",
    "beautiful": "漂亮的",
    "heavy": "很重的",
    "dirty": "脏",
    "clean": "干净的",
}
PREDICATES = {
    "big": "大",
    "small": "小",
    "new": "新",
    "old": "旧",
    "expensive": "贵",
    "cheap": "便宜",
    "beautiful": "漂亮",
    "heavy": "重",
    "dirty": "脏",
    "clean": "干净",
}
NUMBERS = {0: "那", 1: "一", 2: "两", 3: "三", 4: "四", 5: "五", 10: "十"}  # 两, not 二, before a measure word
VERBS = {
    "buy": "买",
    "sell": "卖",
    "choose": "挑选",
    "see": "看见",
    "look for": "寻找",
    "lose": "弄丢",
    "hide": "藏",
    "read": "读",
    "repair": "修理",
    "wash": "洗",
    "break": "弄坏",
    "use": "使用",
}
# the place of the other person, and of 了 in the past
MEETINGS = {
    "help": "帮助{le}{other}",
    "meet": "遇见{le}{other}",
    "call": "给{other}打{le}电话",
    "wait for": "等{le}{other}",
    "invite": "邀请{le}{other}",
    "thank": "感谢{le}{other}",
}
GIVINGS = {"give": "给{le}{receiver}{thing}", "show": "给{receiver}看{le}{thing}", "send": "给{receiver}寄{le}{thing}"}
ACTIONS = {
    "work": "工作",
    "sleep": "睡觉",
    "sing": "唱歌",
    "play": "玩耍",
    "study": "学习",
    "dance": "跳舞",
    "cook": "做饭",
    "wait": "等人",
}
MODALS = {"want": "想", "can": "可以"}
OPINIONS = {"think": "觉得", "say": "说", "know": "知道", "believe": "相信"}
FOODS = {
    "bread": "面包",
    "rice": "米饭",
    "fish": "鱼",
    "meat": "肉",
    "potatoes": "土豆",
    "fruit": "水果",
    "vegetables": "蔬菜",
    "beans": "豆子",
}
DRINKS = {"tea": "茶", "coffee": "咖啡", "milk": "牛奶", "water": "水", "juice": "果汁"}
# where (after 在, or first), where to (after 去 or 到)
PLACES = {
    "market": ("市场上", "市场"),
    "school": ("学校里", "学校"),
    "hospital": ("医院里", "医院"),
    "village": ("村子里", "村里"),
    "city": ("城里", "城里"),
    "garden": ("花园里", "花园"),
    "kitchen": ("厨房里", "厨房"),
    "library": ("图书馆里", "图书馆"),
    "station": ("车站", "车站"),
    "harbour": ("港口", "港口"),
    "shop": ("商店里", "商店"),
    "hotel": ("酒店里", "酒店"),
    "office": ("办公室里", "办公室"),
    "forest": ("森林里", "森林"),
    "beach": ("海滩上", "海滩"),
    "restaurant": ("餐馆里", "餐馆"),
}
TIMES = {
    "yesterday": "昨天",
    "last night": "昨天晚上",
    "last week": "上个星期",
    "last month": "上个月",
    "last year": "去年",
    "every day": "每天",
    "every morning": "每天早上",
    "every week": "每个星期",
    "every Monday": "每个星期一",
    "tomorrow": "明天",
    "tomorrow morning": "明天早上",
    "next week": "下个星期",
    "next month": "下个月",
    "next year": "明年",
}
STATES = {
    "tired": "很累",
    "ill": "病了",
    "hungry": "很饿",
    "thirsty": "很渴",
    "sad": "很难过",
    "busy": "很忙",
    "angry": "很生气",
}
WEATHERS = {
    "rain": "下了很大的雨",
    "snow": "下了很大的雪",
    "cold": "天气很冷",
    "hot": "天气很热",
    "windy": "风很大",
}
TASKS = {
    "answer": "请根据短文回答问题。",
    "negate": "请把句子改成否定句。",
    "retime": "请改写句子，换成另一个时间：{time}。",
    "count": "一共有多少件东西？请用数字回答。",
}
LINK = {"past": "", "present": "都", "future": "会"}  # between time or subject and verb: 每 calls for 都
NOT = {"past": "没有", "present": "都不", "future": "不会"}


def time_phrase(time: str) -> str:
    return TIMES[time]


def aspect(tense: g.Tense) -> str:
    return "了" if tense == "past" else ""


def noun_phrase(thing: g.Thing) -> str:
    measure, noun = NOUNS[thing.noun]
    return f"{NUMBERS[thing.count]}{measure}{ADJECTIVES[thing.adjective]}{noun}"


def this_or_that(demonstrative: str, colour: str, noun: str) -> str:
    measure, word = NOUNS[noun]
    return f"{demonstrative}{measure}{ADJECTIVES[colour]}{word}"


def answer(sentence: g.Act, asked: g.Mode) -> str:
    assert sentence.thing is not None
    parts = {
        "who": PERSONS[sentence.subject],
        "what": noun_phrase(sentence.thing),
        "where": f"在{PLACES[sentence.place][0]}",
        "when": TIMES[sentence.time],
    }
    return g.sentence_case(parts[asked], "。")


def _act(sentence: g.Act) -> str:
    tense = sentence.tense
    verb, link = VERBS[sentence.verb] + aspect(tense), LINK[tense]
    subject = PERSONS.get(sentence.subject, "")
    thing = noun_phrase(sentence.thing) if sentence.thing else ""
    place = f"在{PLACES[sentence.place][0]}" if sentence.place else ""
    time = TIMES.get(sentence.time, "")
    match sentence.mode:
        case "statement":
            return f"{subject}{time}{link}{place}{verb}{thing}"
        case "not":
            return f"{subject}{time}{NOT[tense]}{place}{VERBS[sentence.verb]}{thing}"
        case "whether":
            return f"{subject}{time}{link}{place}{verb}{thing}吗"
        case "who":
            return f"谁{time}{link}{place}{verb}{thing}"
        case "what":
            return f"{subject}{time}{link}{place}{verb}什么"
        case "where":
            return f"{subject}{time}{link}在哪里{verb}{thing}"
        case "when":
            return f"{subject}什么时候{link}{place}{verb}{thing}"


def linearise(sentence: g.Sentence) -> str:
    match sentence:
        case g.Act(mode=mode):
            return g.sentence_case(_act(sentence), "。" if mode in ("statement", "not") else "？")
        case g.Meet(positive, subject, verb, other, place, time):
            tense = g.TIMES[time]
            met = MEETINGS[verb].format(le=aspect(tense) if positive else "", other=PERSONS[other])
            link = LINK[tense] if positive else NOT[tense]
            text = f"{PERSONS[subject]}{TIMES[time]}{link}在{PLACES[place][0]}{met}"
        case g.Meal(subject, food, drink, place, time):
            le, link = aspect(g.TIMES[time]), LINK[g.TIMES[time]]
            text = (
                f"{PERSONS[subject]}{TIMES[time]}{link}在{PLACES[place][0]}吃{le}{FOODS[food]}，还喝{le}{DRINKS[drink]}"
            )
        case g.Trip(subject, place, time, verb, thing):
            tense = g.TIMES[time]
            text = (
                f"{TIMES[time]}{PERSONS[subject]}{LINK[tense]}去{PLACES[place][1]}"
                f"{VERBS[verb]}{aspect(tense)}{noun_phrase(thing)}"
            )
        case g.Because(subject, action, place, time, state):
            pronoun = {"m": "他", "f": "她"}[g.PERSONS[subject]]
            text = (
                f"{PERSONS[subject]}{TIMES[time]}没有在{PLACES[place][0]}{ACTIONS[action]}，"
                f"因为{pronoun}{STATES[state]}"
            )
        case g.Both(time, subject, verb, thing, other, other_verb, other_thing):
            le, link = aspect(g.TIMES[time]), LINK[g.TIMES[time]]
            text = (
                f"{TIMES[time]}{PERSONS[subject]}{link}{VERBS[verb]}{le}{noun_phrase(thing)}，"
                f"{PERSONS[other]}{link}{VERBS[other_verb]}{le}{noun_phrase(other_thing)}"
            )
        case g.Arrival(subject, place, time, other, action):
            text = f"{PERSONS[subject]}{TIMES[time]}到{PLACES[place][1]}的时候，{PERSONS[other]}正在{ACTIONS[action]}"
        case g.Give(subject, verb, thing, receiver, time):
            tense = g.TIMES[time]
            given = GIVINGS[verb].format(le=aspect(tense), receiver=PERSONS[receiver], thing=noun_phrase(thing))
            text = f"{TIMES[time]}{PERSONS[subject]}{LINK[tense]}{given}"
        case g.Compare(noun, colour, quality, other, other_colour):
            text = f"{this_or_that('这', colour, noun)}比{this_or_that('那', other_colour, other)}{PREDICATES[quality]}"
        case g.Exist(place, thing, other):
            text = f"{PLACES[place][0]}有{noun_phrase(thing)}和{noun_phrase(other)}"
        case g.Opinion(subject, verb, noun, colour, quality):
            text = f"{PERSONS[subject]}{OPINIONS[verb]}{this_or_that('这', colour, noun)}很{PREDICATES[quality]}"
        case g.Weather(weather, time, subject, place, companion):
            text = (
                f"{TIMES[time]}{WEATHERS[weather]}，所以{PERSONS[subject]}没有和{PERSONS[companion]}"
                f"一起去{PLACES[place][1]}"
            )
        case g.Wish(subject, modal, verb, thing, place, time):
            text = (
                f"{PERSONS[subject]}{TIMES[time]}{MODALS[modal]}在{PLACES[place][0]}{VERBS[verb]}{noun_phrase(thing)}"
            )
    return g.sentence_case(text, "。")
