"""Russian: abstract sentences in, text out. Case, animacy, numerals, gender in the past tense."""

from pipelines import sample_grammar as g

# nominative, accusative, dative, instrumental
PERSONS = {
    "teacher": ("учитель", "учителя", "учителю", "учителем"),
    "doctor": ("врач", "врача", "врачу", "врачом"),
    "nurse": ("медсестра", "медсестру", "медсестре", "медсестрой"),
    "farmer": ("фермер", "фермера", "фермеру", "фермером"),
    "fisherman": ("рыбак", "рыбака", "рыбаку", "рыбаком"),
    "student": ("студентка", "студентку", "студентке", "студенткой"),
    "neighbour": ("сосед", "соседа", "соседу", "соседом"),
    "driver": ("водитель", "водителя", "водителю", "водителем"),
    "cook": ("повар", "повара", "повару", "поваром"),
    "singer": ("певица", "певицу", "певице", "певицей"),
    "writer": ("писатель", "писателя", "писателю", "писателем"),
    "engineer": ("инженер", "инженера", "инженеру", "инженером"),
    "boy": ("мальчик", "мальчика", "мальчику", "мальчиком"),
    "girl": ("девочка", "девочку", "девочке", "девочкой"),
    "old man": ("старик", "старика", "старику", "стариком"),
    "old woman": ("старушка", "старушку", "старушке", "старушкой"),
    "mother": ("моя мама", "мою маму", "моей маме", "моей мамой"),
    "father": ("мой папа", "моего папу", "моему папе", "моим папой"),
    "sister": ("моя сестра", "мою сестру", "моей сестре", "моей сестрой"),
    "brother": ("мой брат", "моего брата", "моему брату", "моим братом"),
    "grandmother": ("моя бабушка", "мою бабушку", "моей бабушке", "моей бабушкой"),
    "friend": ("мой друг", "моего друга", "моему другу", "моим другом"),
    "daughter": ("моя дочь", "мою дочь", "моей дочери", "моей дочерью"),
    "uncle": ("мой дядя", "моего дядю", "моему дяде", "моим дядей"),
}
# gender, nominative, accusative, genitive, genitive plural; all inanimate
NOUNS = {
    "book": ("f", "книга", "книгу", "книги", "книг"),
    "letter": ("n", "письмо", "письмо", "письма", "писем"),
    "newspaper": ("f", "газета", "газету", "газеты", "газет"),
    "cup": ("f", "чашка", "чашку", "чашки", "чашек"),
    "plate": ("f", "тарелка", "тарелку", "тарелки", "тарелок"),
    "pot": ("f", "кастрюля", "кастрюлю", "кастрюли", "кастрюль"),
    "bottle": ("f", "бутылка", "бутылку", "бутылки", "бутылок"),
    "knife": ("m", "нож", "нож", "ножа", "ножей"),
    "spoon": ("f", "ложка", "ложку", "ложки", "ложек"),
    "shirt": ("f", "рубашка", "рубашку", "рубашки", "рубашек"),
    "hat": ("f", "шляпа", "шляпу", "шляпы", "шляп"),
    "dress": ("n", "платье", "платье", "платья", "платьев"),
    "blanket": ("n", "одеяло", "одеяло", "одеяла", "одеял"),
    "bicycle": ("m", "велосипед", "велосипед", "велосипеда", "велосипедов"),
    "car": ("f", "машина", "машину", "машины", "машин"),
    "clock": ("m", "будильник", "будильник", "будильника", "будильников"),
    "phone": ("m", "телефон", "телефон", "телефона", "телефонов"),
    "lamp": ("f", "лампа", "лампу", "лампы", "ламп"),
    "boat": ("f", "лодка", "лодку", "лодки", "лодок"),
    "umbrella": ("m", "зонт", "зонт", "зонта", "зонтов"),
    "guitar": ("f", "гитара", "гитару", "гитары", "гитар"),
    "table": ("m", "стол", "стол", "стола", "столов"),
    "chair": ("m", "стул", "стул", "стула", "стульев"),
    "bed": ("f", "кровать", "кровать", "кровати", "кроватей"),
    "mirror": ("n", "зеркало", "зеркало", "зеркала", "зеркал"),
    "carpet": ("m", "ковёр", "ковёр", "ковра", "ковров"),
    "box": ("f", "коробка", "коробку", "коробки", "коробок"),
    "bag": ("f", "сумка", "сумку", "сумки", "сумок"),
    "basket": ("f", "корзина", "корзину", "корзины", "корзин"),
    "key": ("m", "ключ", "ключ", "ключа", "ключей"),
    "picture": ("f", "картина", "картину", "картины", "картин"),
}
# nominative m, f, n; accusative f; genitive plural; nominative plural
_HARD = ("ый", "ая", "ое", "ую", "ых", "ые")
_SOFT = ("ий", "яя", "ее", "юю", "их", "ие")
_VELAR = ("ий", "ая", "ое", "ую", "их", "ие")  # after к, г, ш, where ы is not written
_STRESSED = ("ой", "ая", "ое", "ую", "их", "ие")
ADJECTIVES = {
    "red": ("красн", _HARD),
    "white": ("бел", _HARD),
    "black": ("чёрн", _HARD),
    "blue": ("син", _SOFT),
    "green": ("зелён", _HARD),
    "big": ("больш", _STRESSED),
    "small": ("маленьк", _VELAR),
    "new": ("нов", _HARD),
    "old": ("стар", _HARD),
    "expensive": ("дорог", _STRESSED),
    "cheap": ("дешёв", _HARD),
    "beautiful": ("красив", _HARD),
    "heavy": ("тяжёл", _HARD),
    "dirty": ("грязн", _HARD),
    "clean": ("чист", _HARD),
}
COMPARATIVES = {
    "big": "больше",
    "small": "меньше",
    "new": "новее",
    "old": "старее",
    "expensive": "дороже",
    "cheap": "дешевле",
    "beautiful": "красивее",
    "heavy": "тяжелее",
    "dirty": "грязнее",
    "clean": "чище",
}
NUMBERS = {3: "три", 4: "четыре", 5: "пять", 10: "десять"}  # two has gender
# past m, past f, present, future, infinitive
VERBS = {
    "buy": ("купил", "купила", "покупает", "купит", "купить"),
    "sell": ("продал", "продала", "продаёт", "продаст", "продать"),
    "choose": ("выбрал", "выбрала", "выбирает", "выберет", "выбрать"),
    "see": ("увидел", "увидела", "видит", "увидит", "увидеть"),
    "look for": ("искал", "искала", "ищет", "будет искать", "искать"),
    "lose": ("потерял", "потеряла", "теряет", "потеряет", "потерять"),
    "hide": ("спрятал", "спрятала", "прячет", "спрячет", "спрятать"),
    "read": ("прочитал", "прочитала", "читает", "прочитает", "прочитать"),
    "repair": ("починил", "починила", "чинит", "починит", "починить"),
    "wash": ("помыл", "помыла", "моет", "помоет", "помыть"),
    "break": ("сломал", "сломала", "ломает", "сломает", "сломать"),
    "use": ("использовал", "использовала", "использует", "будет использовать", "использовать"),
    "help": ("помог", "помогла", "помогает", "поможет", "помочь"),
    "meet": ("встретил", "встретила", "встречает", "встретит", "встретить"),
    "call": ("позвонил", "позвонила", "звонит", "позвонит", "позвонить"),
    "wait for": ("ждал", "ждала", "ждёт", "будет ждать", "ждать"),
    "invite": ("пригласил", "пригласила", "приглашает", "пригласит", "пригласить"),
    "thank": ("поблагодарил", "поблагодарила", "благодарит", "поблагодарит", "поблагодарить"),
    "give": ("дал", "дала", "даёт", "даст", "дать"),
    "show": ("показал", "показала", "показывает", "покажет", "показать"),
    "send": ("отправил", "отправила", "отправляет", "отправит", "отправить"),
    "go": ("ходил", "ходила", "ходит", "пойдёт", "пойти"),
}
DATIVE_VERBS = ("help", "call")
# past m, past f
ACTIONS = {
    "work": ("работал", "работала"),
    "sleep": ("спал", "спала"),
    "sing": ("пел", "пела"),
    "play": ("играл", "играла"),
    "study": ("учился", "училась"),
    "dance": ("танцевал", "танцевала"),
    "cook": ("готовил", "готовила"),
    "wait": ("ждал", "ждала"),
}
MODALS = {"want": "хочет", "can": "может"}
OPINIONS = {"think": "думает", "say": "говорит", "know": "знает", "believe": "считает"}
# accusative
FOODS = {
    "bread": "хлеб",
    "rice": "рис",
    "fish": "рыбу",
    "meat": "мясо",
    "potatoes": "картошку",
    "fruit": "фрукты",
    "vegetables": "овощи",
    "beans": "фасоль",
}
DRINKS = {"tea": "чай", "coffee": "кофе", "milk": "молоко", "water": "воду", "juice": "сок"}
# where (prepositional), where to (accusative)
PLACES = {
    "market": ("на рынке", "на рынок"),
    "school": ("в школе", "в школу"),
    "hospital": ("в больнице", "в больницу"),
    "village": ("в деревне", "в деревню"),
    "city": ("в городе", "в город"),
    "garden": ("в саду", "в сад"),
    "kitchen": ("на кухне", "на кухню"),
    "library": ("в библиотеке", "в библиотеку"),
    "station": ("на вокзале", "на вокзал"),
    "harbour": ("в порту", "в порт"),
    "shop": ("в магазине", "в магазин"),
    "hotel": ("в гостинице", "в гостиницу"),
    "office": ("в офисе", "в офис"),
    "forest": ("в лесу", "в лес"),
    "beach": ("на пляже", "на пляж"),
    "restaurant": ("в ресторане", "в ресторан"),
}
TIMES = {
    "yesterday": "вчера",
    "last night": "вчера вечером",
    "last week": "на прошлой неделе",
    "last month": "в прошлом месяце",
    "last year": "в прошлом году",
    "every day": "каждый день",
    "every morning": "каждое утро",
    "every week": "каждую неделю",
    "every Monday": "каждый понедельник",
    "tomorrow": "завтра",
    "tomorrow morning": "завтра утром",
    "next week": "на следующей неделе",
    "next month": "в следующем месяце",
    "next year": "в следующем году",
}
# masculine, feminine
STATES = {
    "tired": ("устал", "устала"),
    "ill": ("болел", "болела"),
    "hungry": ("был голоден", "была голодна"),
    "thirsty": ("хотел пить", "хотела пить"),
    "sad": ("грустил", "грустила"),
    "busy": ("был занят", "была занята"),
    "angry": ("злился", "злилась"),
}
WEATHERS = {
    "rain": "шёл сильный дождь",
    "snow": "шёл сильный снег",
    "cold": "было очень холодно",
    "hot": "было очень жарко",
    "windy": "было очень ветрено",
}
TASKS = {
    "answer": "Ответь на вопрос по тексту.",
    "negate": "Сделай предложение отрицательным.",
    "retime": "Перепиши предложение так, чтобы речь шла о другом времени: {time}.",
    "count": "Сколько всего предметов? Ответь числом.",
}


def time_phrase(time: str) -> str:
    return TIMES[time]


def _nominative(adjective: str, gender: str) -> str:
    stem, endings = ADJECTIVES[adjective]
    return stem + endings["mfn".index(gender)]


def accusative(thing: g.Thing) -> str:
    """Two to four take the genitive singular, more the genitive plural; no articles."""
    gender, _, accusative, genitive, genitive_plural = NOUNS[thing.noun]
    stem, endings = ADJECTIVES[thing.adjective]
    if thing.count < 2:
        adjective = stem + endings[3] if gender == "f" else _nominative(thing.adjective, gender)
        return f"{adjective} {accusative}"
    if thing.count < 5:
        number = NUMBERS.get(thing.count) or ("две" if gender == "f" else "два")
        return f"{number} {stem}{endings[5 if gender == 'f' else 4]} {genitive}"
    return f"{NUMBERS[thing.count]} {stem}{endings[4]} {genitive_plural}"


def this_or_that(demonstratives: tuple[str, str, str], colour: str, noun: str) -> str:
    """Nominative; demonstratives in the order m, f, n."""
    gender, nominative = NOUNS[noun][:2]
    return f"{demonstratives['mfn'.index(gender)]} {_nominative(colour, gender)} {nominative}"


def finite(verb: str, tense: g.Tense, subject: str) -> str:
    """Third person singular; the past agrees with the subject in gender. "who" is masculine."""
    past_m, past_f, present, future, _ = VERBS[verb]
    past = past_f if g.PERSONS.get(subject) == "f" else past_m
    return {"past": past, "present": present, "future": future}[tense]


def with_companion(person: str) -> str:
    """The preposition с, со before с and another consonant, and the instrumental."""
    instrumental = PERSONS[person][3]
    return f"{'со' if instrumental.startswith('ст') else 'с'} {instrumental}"


def answer(sentence: g.Act, asked: g.Mode) -> str:
    assert sentence.thing is not None
    parts = {
        "who": PERSONS[sentence.subject][0],
        "what": accusative(sentence.thing),
        "where": PLACES[sentence.place][0],
        "when": TIMES[sentence.time],
    }
    return g.sentence_case(parts[asked])


def _act(sentence: g.Act) -> str:
    verb = finite(sentence.verb, sentence.tense, sentence.subject)
    subject = PERSONS[sentence.subject][0] if sentence.subject else ""
    thing = accusative(sentence.thing) if sentence.thing else ""
    place = PLACES[sentence.place][0] if sentence.place else ""
    time = TIMES.get(sentence.time, "")
    match sentence.mode:
        case "statement":
            return f"{subject} {time} {verb} {place} {thing}"
        case "not":
            return f"{subject} {time} не {verb} {place} {thing}"
        case "whether":  # ли stands after the first word of the verb: будет ли учитель ... искать
            first, *rest = verb.split()
            return " ".join([first, "ли", subject, time, *rest, place, thing])
        case "who":
            return f"кто {time} {verb} {place} {thing}"
        case "what":
            return f"что {subject} {time} {verb} {place}"
        case "where":
            return f"где {subject} {time} {verb} {thing}"
        case "when":
            return f"когда {subject} {verb} {place} {thing}"


def linearise(sentence: g.Sentence) -> str:
    match sentence:
        case g.Act(mode=mode):
            return g.sentence_case(_act(sentence), "." if mode in ("statement", "not") else "?")
        case g.Meet(positive, subject, verb, other, place, time):
            said = finite(verb, g.TIMES[time], subject)
            met = PERSONS[other][2 if verb in DATIVE_VERBS else 1]
            text = f"{PERSONS[subject][0]} {TIMES[time]} {said if positive else f'не {said}'} {met} {PLACES[place][0]}"
        case g.Meal(subject, food, drink, place, time):
            eats, drinks = {
                "past": ("ела", "пила") if g.PERSONS[subject] == "f" else ("ел", "пил"),
                "present": ("ест", "пьёт"),
                "future": ("будет есть", "пить"),
            }[g.TIMES[time]]
            text = (
                f"{PERSONS[subject][0]} {TIMES[time]} {eats} {FOODS[food]} и {drinks} {DRINKS[drink]} "
                f"{PLACES[place][0]}"
            )
        case g.Trip(subject, place, time, verb, thing):
            goes = finite("go", g.TIMES[time], subject)
            text = (
                f"{TIMES[time]} {PERSONS[subject][0]} {goes} {PLACES[place][1]}, "
                f"чтобы {VERBS[verb][4]} {accusative(thing)}"
            )
        case g.Because(subject, action, place, time, state):
            feminine = g.PERSONS[subject] == "f"
            text = (
                f"{PERSONS[subject][0]} {TIMES[time]} не {ACTIONS[action][feminine]} {PLACES[place][0]}, "
                f"потому что {'она' if feminine else 'он'} {STATES[state][feminine]}"
            )
        case g.Both(time, subject, verb, thing, other, other_verb, other_thing):
            tense = g.TIMES[time]
            text = (
                f"{TIMES[time]} {PERSONS[subject][0]} {finite(verb, tense, subject)} {accusative(thing)}, "
                f"а {PERSONS[other][0]} {finite(other_verb, tense, other)} {accusative(other_thing)}"
            )
        case g.Arrival(subject, place, time, other, action):
            came = {"m": "пришёл", "f": "пришла"}[g.PERSONS[subject]]
            text = (
                f"когда {PERSONS[subject][0]} {TIMES[time]} {came} {PLACES[place][1]}, "
                f"{PERSONS[other][0]} {ACTIONS[action][g.PERSONS[other] == 'f']}"
            )
        case g.Give(subject, verb, thing, receiver, time):
            text = (
                f"{TIMES[time]} {PERSONS[subject][0]} {finite(verb, g.TIMES[time], subject)} "
                f"{PERSONS[receiver][2]} {accusative(thing)}"
            )
        case g.Compare(noun, colour, quality, other, other_colour):
            text = (
                f"{this_or_that(('этот', 'эта', 'это'), colour, noun)} {COMPARATIVES[quality]}, "
                f"чем {this_or_that(('тот', 'та', 'то'), other_colour, other)}"
            )
        case g.Exist(place, thing, other):
            text = f"{PLACES[place][0]} есть {accusative(thing)} и {accusative(other)}"
        case g.Opinion(subject, verb, noun, colour, quality):
            text = (
                f"{PERSONS[subject][0]} {OPINIONS[verb]}, что {this_or_that(('этот', 'эта', 'это'), colour, noun)} "
                f"очень {_nominative(quality, NOUNS[noun][0])}"
            )
        case g.Weather(weather, time, subject, place, companion):
            went = {"m": "пошёл", "f": "пошла"}[g.PERSONS[subject]]
            text = (
                f"{TIMES[time]} {WEATHERS[weather]}, поэтому {PERSONS[subject][0]} не {went} {PLACES[place][1]} "
                f"{with_companion(companion)}"
            )
        case g.Wish(subject, modal, verb, thing, place, time):
            text = (
                f"{PERSONS[subject][0]} {MODALS[modal]} {TIMES[time]} {VERBS[verb][4]} "
                f"{PLACES[place][0]} {accusative(thing)}"
            )
    return g.sentence_case(text)
