"""Swahili: abstract sentences in, text out. Noun classes, subject and object prefixes, negative verbs."""

from pipelines import sample_grammar as g

PERSONS = {  # all take the concords of class 1
    "teacher": "mwalimu",
    "doctor": "daktari",
    "nurse": "muuguzi",
    "farmer": "mkulima",
    "fisherman": "mvuvi",
    "student": "mwanafunzi",
    "neighbour": "jirani",
    "driver": "dereva",
    "cook": "mpishi",
    "singer": "mwimbaji",
    "writer": "mwandishi",
    "engineer": "mhandisi",
    "boy": "mvulana",
    "girl": "msichana",
    "old man": "mzee",
    "old woman": "bibi kizee",
    "mother": "mama yangu",
    "father": "baba yangu",
    "sister": "dada yangu",
    "brother": "kaka yangu",
    "grandmother": "bibi yangu",
    "friend": "rafiki yangu",
    "daughter": "binti yangu",
    "uncle": "mjomba wangu",
}
# class of the singular, singular, class of the plural, plural
NOUNS = {
    "book": (7, "kitabu", 8, "vitabu"),
    "letter": (9, "barua", 10, "barua"),
    "newspaper": (5, "gazeti", 6, "magazeti"),
    "cup": (7, "kikombe", 8, "vikombe"),
    "plate": (9, "sahani", 10, "sahani"),
    "pot": (7, "chungu", 8, "vyungu"),
    "bottle": (9, "chupa", 10, "chupa"),
    "knife": (7, "kisu", 8, "visu"),
    "spoon": (7, "kijiko", 8, "vijiko"),
    "shirt": (5, "shati", 6, "mashati"),
    "hat": (9, "kofia", 10, "kofia"),
    "dress": (5, "gauni", 6, "magauni"),
    "blanket": (5, "blanketi", 6, "mablanketi"),
    "bicycle": (9, "baiskeli", 10, "baiskeli"),
    "car": (5, "gari", 6, "magari"),
    "clock": (9, "saa", 10, "saa"),
    "phone": (9, "simu", 10, "simu"),
    "lamp": (9, "taa", 10, "taa"),
    "boat": (9, "mashua", 10, "mashua"),
    "umbrella": (3, "mwavuli", 4, "miavuli"),
    "guitar": (5, "gitaa", 6, "magitaa"),
    "table": (9, "meza", 10, "meza"),
    "chair": (7, "kiti", 8, "viti"),
    "bed": (7, "kitanda", 8, "vitanda"),
    "mirror": (7, "kioo", 8, "vioo"),
    "carpet": (5, "zulia", 6, "mazulia"),
    "box": (5, "sanduku", 6, "masanduku"),
    "bag": (3, "mkoba", 4, "mikoba"),
    "basket": (7, "kikapu", 8, "vikapu"),
    "key": (11, "ufunguo", 10, "funguo"),
    "picture": (9, "picha", 10, "picha"),
}
# class to: adjective prefix before a consonant, before e-, associative -a, this, that
CONCORDS = {
    3: ("m", "mw", "wa", "huu", "ule"),
    4: ("mi", "my", "ya", "hii", "ile"),
    5: ("", "j", "la", "hili", "lile"),
    6: ("ma", "m", "ya", "haya", "yale"),
    7: ("ki", "ch", "cha", "hiki", "kile"),
    8: ("vi", "vy", "vya", "hivi", "vile"),
    9: ("n", "ny", "ya", "hii", "ile"),
    10: ("n", "ny", "za", "hizi", "zile"),
    11: ("m", "mw", "wa", "huu", "ule"),
}
STEMS = {  # adjectives that take a prefix
    "red": "ekundu",
    "white": "eupe",
    "black": "eusi",
    "big": "kubwa",
    "small": "dogo",
    "new": "pya",
    "beautiful": "zuri",
    "heavy": "zito",
    "dirty": "chafu",
}
NASAL = {  # classes 9 and 10: n- appears only before d, g, z, and is m- in mpya
    "kubwa": "kubwa",
    "dogo": "ndogo",
    "pya": "mpya",
    "zuri": "nzuri",
    "zito": "nzito",
    "chafu": "chafu",
}
ASSOCIATIVES = {"blue": "bluu", "green": "kijani", "old": "zamani", "cheap": "bei nafuu"}  # after -a
INVARIABLE = {"expensive": "ghali", "clean": "safi"}
NUMBERS = {2: "wili", 3: "tatu", 4: "nne", 5: "tano"}  # take the prefix of the plural class; ten does not
VERBS = {
    "buy": "nunua",
    "sell": "uza",
    "choose": "chagua",
    "see": "ona",
    "look for": "tafuta",
    "lose": "poteza",
    "hide": "ficha",
    "read": "soma",
    "repair": "tengeneza",
    "wash": "osha",
    "break": "vunja",
    "use": "tumia",
}
# with the object prefix m- (mw- before a vowel), and what follows the verb
MEETINGS = {
    "help": ("msaidia", ""),
    "meet": ("kutana", " na"),
    "call": ("mpigia", " simu"),
    "wait for": ("msubiri", ""),
    "invite": ("mwalika", ""),
    "thank": ("mshukuru", ""),
}
GIVINGS = {"give": "mpa", "show": "mwonyesha", "send": "mtumia"}
ACTIONS = {
    "work": "fanya kazi",
    "sleep": "lala",
    "sing": "imba",
    "play": "cheza",
    "study": "soma",
    "dance": "cheza ngoma",
    "cook": "pika chakula",
    "wait": "subiri",
}
MODALS = {"want": "anataka", "can": "anaweza"}
OPINIONS = {"think": "anafikiri", "say": "anasema", "know": "anajua", "believe": "anaamini"}
FOODS = {
    "bread": "mkate",
    "rice": "wali",
    "fish": "samaki",
    "meat": "nyama",
    "potatoes": "viazi",
    "fruit": "matunda",
    "vegetables": "mboga",
    "beans": "maharagwe",
}
DRINKS = {"tea": "chai", "coffee": "kahawa", "milk": "maziwa", "water": "maji", "juice": "juisi"}
# the locative serves for where and where to
PLACES = {
    "market": "sokoni",
    "school": "shuleni",
    "hospital": "hospitalini",
    "village": "kijijini",
    "city": "mjini",
    "garden": "bustanini",
    "kitchen": "jikoni",
    "library": "maktabani",
    "station": "kituoni",
    "harbour": "bandarini",
    "shop": "dukani",
    "hotel": "hotelini",
    "office": "ofisini",
    "forest": "msituni",
    "beach": "ufukweni",
    "restaurant": "mkahawani",
}
TIMES = {
    "yesterday": "jana",
    "last night": "jana usiku",
    "last week": "wiki iliyopita",
    "last month": "mwezi uliopita",
    "last year": "mwaka uliopita",
    "every day": "kila siku",
    "every morning": "kila asubuhi",
    "every week": "kila wiki",
    "every Monday": "kila Jumatatu",
    "tomorrow": "kesho",
    "tomorrow morning": "kesho asubuhi",
    "next week": "wiki ijayo",
    "next month": "mwezi ujao",
    "next year": "mwaka ujao",
}
STATES = {
    "tired": "alikuwa amechoka",
    "ill": "alikuwa mgonjwa",
    "hungry": "alikuwa na njaa",
    "thirsty": "alikuwa na kiu",
    "sad": "alikuwa na huzuni",
    "busy": "alikuwa na shughuli nyingi",
    "angry": "alikuwa amekasirika",
}
WEATHERS = {
    "rain": "mvua kubwa ilinyesha",
    "snow": "theluji nyingi ilianguka",
    "cold": "kulikuwa na baridi kali",
    "hot": "kulikuwa na joto kali",
    "windy": "kulikuwa na upepo mkali",
}
TASKS = {
    "answer": "Jibu swali kwa kutumia maandishi haya.",
    "negate": "Badilisha sentensi iwe ya kukanusha.",
    "retime": "Andika upya sentensi ili izungumzie wakati mwingine: {time}.",
    "count": "Kuna vitu vingapi kwa jumla? Jibu kwa namba.",
}


def time_phrase(time: str) -> str:
    return TIMES[time]


def adjective(word: str, noun_class: int) -> str:
    """The adjective with the concord of a noun class."""
    before_consonant, before_e, associative, _, _ = CONCORDS[noun_class]
    if word in INVARIABLE:
        return INVARIABLE[word]
    if word in ASSOCIATIVES:
        return f"{associative} {ASSOCIATIVES[word]}"
    stem = STEMS[word]
    if stem[0] == "e":
        return before_e + stem
    if noun_class in (9, 10):
        return NASAL[stem]
    if noun_class == 5 and stem == "pya":
        return "jipya"
    return before_consonant + stem


def numeral(count: int, noun_class: int) -> str:
    if count == 10:
        return "kumi"
    if noun_class == 10:
        return "mbili" if count == 2 else NUMBERS[count]
    return CONCORDS[noun_class][0] + NUMBERS[count]


def noun_phrase(thing: g.Thing) -> str:
    """Noun, adjective, numeral; an adjective with -a comes after the numeral. No articles."""
    singular_class, singular, plural_class, plural = NOUNS[thing.noun]
    if thing.count < 2:
        return f"{singular} {adjective(thing.adjective, singular_class)}"
    described, number = adjective(thing.adjective, plural_class), numeral(thing.count, plural_class)
    return f"{plural} {number} {described}" if thing.adjective in ASSOCIATIVES else f"{plural} {described} {number}"


def this_or_that(that: bool, colour: str, noun: str) -> str:
    noun_class, singular, _, _ = NOUNS[noun]
    return f"{singular} {CONCORDS[noun_class][4 if that else 3]} {adjective(colour, noun_class)}"


def finite(stem: str, tense: g.Tense, positive: bool = True) -> str:
    """Third person singular, class 1. The denied present ends in -i where the stem ends in -a."""
    if positive:
        return {"past": "ali", "present": "ana", "future": "ata"}[tense] + stem
    if tense == "present":
        return "ha" + (stem[:-1] + "i" if stem[-1] == "a" else stem)
    return {"past": "haku", "future": "hata"}[tense] + stem


def answer(sentence: g.Act, asked: g.Mode) -> str:
    assert sentence.thing is not None
    parts = {
        "who": PERSONS[sentence.subject],
        "what": noun_phrase(sentence.thing),
        "where": PLACES[sentence.place],
        "when": TIMES[sentence.time],
    }
    return g.sentence_case(parts[asked])


def _act(sentence: g.Act) -> str:
    verb = finite(VERBS[sentence.verb], sentence.tense, sentence.mode != "not")
    subject = PERSONS.get(sentence.subject, "")
    thing = noun_phrase(sentence.thing) if sentence.thing else ""
    place, time = PLACES.get(sentence.place, ""), TIMES.get(sentence.time, "")
    match sentence.mode:
        case "statement" | "not":
            return f"{subject} {verb} {thing} {place} {time}"
        case "whether":
            return f"je, {subject} {verb} {thing} {place} {time}"
        case "who":
            return f"nani {verb} {thing} {place} {time}"
        case "what":
            return f"{subject} {verb} nini {place} {time}"
        case "where":
            return f"{subject} {verb} {thing} wapi {time}"
        case "when":
            return f"{subject} {verb} {thing} {place} lini"


def linearise(sentence: g.Sentence) -> str:
    match sentence:
        case g.Act(mode=mode):
            return g.sentence_case(_act(sentence), "." if mode in ("statement", "not") else "?")
        case g.Meet(positive, subject, verb, other, place, time):
            stem, after = MEETINGS[verb]
            said = finite(stem, g.TIMES[time], positive)
            text = f"{PERSONS[subject]} {said}{after} {PERSONS[other]} {PLACES[place]} {TIMES[time]}"
        case g.Meal(subject, food, drink, place, time):
            text = (
                f"{PERSONS[subject]} {finite('kula', g.TIMES[time])} {FOODS[food]} na kunywa {DRINKS[drink]} "
                f"{PLACES[place]} {TIMES[time]}"
            )
        case g.Trip(subject, place, time, verb, thing):
            text = (
                f"{TIMES[time]} {PERSONS[subject]} {finite('enda', g.TIMES[time])} {PLACES[place]} "
                f"ku{VERBS[verb]} {noun_phrase(thing)}"
            )
        case g.Because(subject, action, place, time, state):
            text = f"{PERSONS[subject]} haku{ACTIONS[action]} {PLACES[place]} {TIMES[time]} kwa sababu {STATES[state]}"
        case g.Both(time, subject, verb, thing, other, other_verb, other_thing):
            tense = g.TIMES[time]
            text = (
                f"{TIMES[time]} {PERSONS[subject]} {finite(VERBS[verb], tense)} {noun_phrase(thing)} "
                f"na {PERSONS[other]} {finite(VERBS[other_verb], tense)} {noun_phrase(other_thing)}"
            )
        case g.Arrival(subject, place, time, other, action):
            text = (
                f"{PERSONS[subject]} alipofika {PLACES[place]} {TIMES[time]}, "
                f"{PERSONS[other]} alikuwa aki{ACTIONS[action]}"
            )
        case g.Give(subject, verb, thing, receiver, time):
            text = (
                f"{TIMES[time]} {PERSONS[subject]} {finite(GIVINGS[verb], g.TIMES[time])} {PERSONS[receiver]} "
                f"{noun_phrase(thing)}"
            )
        case g.Compare(noun, colour, quality, other, other_colour):
            text = (
                f"{this_or_that(False, colour, noun)} ni {adjective(quality, NOUNS[noun][0])} "
                f"kuliko {this_or_that(True, other_colour, other)}"
            )
        case g.Exist(place, thing, other):
            text = f"{PLACES[place]} kuna {noun_phrase(thing)} na {noun_phrase(other)}"
        case g.Opinion(subject, verb, noun, colour, quality):
            text = (
                f"{PERSONS[subject]} {OPINIONS[verb]} kwamba {this_or_that(False, colour, noun)} "
                f"ni {adjective(quality, NOUNS[noun][0])} sana"
            )
        case g.Weather(weather, time, subject, place, companion):
            text = (
                f"{TIMES[time]} {WEATHERS[weather]}, kwa hiyo {PERSONS[subject]} hakuenda {PLACES[place]} "
                f"pamoja na {PERSONS[companion]}"
            )
        case g.Wish(subject, modal, verb, thing, place, time):
            text = (
                f"{PERSONS[subject]} {MODALS[modal]} ku{VERBS[verb]} {noun_phrase(thing)} {PLACES[place]} {TIMES[time]}"
            )
    return g.sentence_case(text)
