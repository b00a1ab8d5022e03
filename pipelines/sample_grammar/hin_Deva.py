"""Hindi: abstract sentences in, text out. Oblique case, postpositions, the ergative ने, agreement in gender."""

from pipelines import sample_grammar as g

# direct, oblique, agreement: gender and number; elders are plural out of respect
PERSONS = {
    "teacher": ("अध्यापक", "अध्यापक", "ms"),
    "doctor": ("डॉक्टर", "डॉक्टर", "ms"),
    "nurse": ("नर्स", "नर्स", "fs"),
    "farmer": ("किसान", "किसान", "ms"),
    "fisherman": ("मछुआरा", "मछुआरे", "ms"),
    "student": ("छात्रा", "छात्रा", "fs"),
    "neighbour": ("पड़ोसी", "पड़ोसी", "ms"),
    "driver": ("ड्राइवर", "ड्राइवर", "ms"),
    "cook": ("रसोइया", "रसोइये", "ms"),
    "singer": ("गायिका", "गायिका", "fs"),
    "writer": ("लेखक", "लेखक", "ms"),
    "engineer": ("इंजीनियर", "इंजीनियर", "ms"),
    "boy": ("लड़का", "लड़के", "ms"),
    "girl": ("लड़की", "लड़की", "fs"),
    "old man": ("बूढ़ा आदमी", "बूढ़े आदमी", "ms"),
    "old woman": ("बूढ़ी औरत", "बूढ़ी औरत", "fs"),
    "mother": ("मेरी माँ", "मेरी माँ", "fp"),
    "father": ("मेरे पिता", "मेरे पिता", "mp"),
    "sister": ("मेरी बहन", "मेरी बहन", "fs"),
    "brother": ("मेरा भाई", "मेरे भाई", "ms"),
    "grandmother": ("मेरी दादी", "मेरी दादी", "fp"),
    "friend": ("मेरा दोस्त", "मेरे दोस्त", "ms"),
    "daughter": ("मेरी बेटी", "मेरी बेटी", "fs"),
    "uncle": ("मेरे चाचा", "मेरे चाचा", "mp"),
}
# gender, singular, plural, oblique singular
NOUNS = {
    "book": ("f", "किताब", "किताबें", "किताब"),
    "letter": ("f", "चिट्ठी", "चिट्ठियाँ", "चिट्ठी"),
    "newspaper": ("m", "अख़बार", "अख़बार", "अख़बार"),
    "cup": ("m", "प्याला", "प्याले", "प्याले"),
    "plate": ("f", "थाली", "थालियाँ", "थाली"),
    "pot": ("m", "पतीला", "पतीले", "पतीले"),
    "bottle": ("f", "बोतल", "बोतलें", "बोतल"),
    "knife": ("m", "चाकू", "चाकू", "चाकू"),
    "spoon": ("m", "चम्मच", "चम्मच", "चम्मच"),
    "shirt": ("f", "क़मीज़", "क़मीज़ें", "क़मीज़"),
    "hat": ("f", "टोपी", "टोपियाँ", "टोपी"),
    "dress": ("f", "पोशाक", "पोशाकें", "पोशाक"),
    "blanket": ("m", "कंबल", "कंबल", "कंबल"),
    "bicycle": ("f", "साइकिल", "साइकिलें", "साइकिल"),
    "car": ("f", "गाड़ी", "गाड़ियाँ", "गाड़ी"),
    "clock": ("f", "घड़ी", "घड़ियाँ", "घड़ी"),
    "phone": ("m", "फ़ोन", "फ़ोन", "फ़ोन"),
    "lamp": ("m", "लैंप", "लैंप", "लैंप"),
    "boat": ("f", "नाव", "नावें", "नाव"),
    "umbrella": ("m", "छाता", "छाते", "छाते"),
    "guitar": ("m", "गिटार", "गिटार", "गिटार"),
    "table": ("f", "मेज़", "मेज़ें", "मेज़"),
    "chair": ("f", "कुर्सी", "कुर्सियाँ", "कुर्सी"),
    "bed": ("m", "पलंग", "पलंग", "पलंग"),
    "mirror": ("m", "शीशा", "शीशे", "शीशे"),
    "carpet": ("m", "क़ालीन", "क़ालीन", "क़ालीन"),
    "box": ("m", "डिब्बा", "डिब्बे", "डिब्बे"),
    "bag": ("m", "थैला", "थैले", "थैले"),
    "basket": ("f", "टोकरी", "टोकरियाँ", "टोकरी"),
    "key": ("f", "चाबी", "चाबियाँ", "चाबी"),
    "picture": ("f", "तस्वीर", "तस्वीरें", "तस्वीर"),
}
# masculine direct singular, masculine otherwise, feminine
ADJECTIVES = {
    "red": ("लाल", "लाल", "लाल"),
    "white": ("सफ़ेद", "सफ़ेद", "सफ़ेद"),
    "black": ("काला", "काले", "काली"),
    "blue": ("नीला", "नीले", "नीली"),
    "green": ("हरा", "हरे", "हरी"),
    "big": ("बड़ा", "बड़े", "बड़ी"),
    "small": ("छोटा", "छोटे", "छोटी"),
    "new": ("नया", "नए", "नई"),
    "old": ("पुराना", "पुराने", "पुरानी"),
    "expensive": ("महँगा", "महँगे", "महँगी"),
    "cheap": ("सस्ता", "सस्ते", "सस्ती"),
    "beautiful": ("सुंदर", "सुंदर", "सुंदर"),
    "heavy": ("भारी", "भारी", "भारी"),
    "dirty": ("गंदा", "गंदे", "गंदी"),
    "clean": ("साफ़", "साफ़", "साफ़"),
}
NUMBERS = {1: "एक", 2: "दो", 3: "तीन", 4: "चार", 5: "पाँच", 10: "दस"}
KARNA_PAST = {"ms": "किया", "mp": "किए", "fs": "की", "fp": "कीं"}
DENA_PAST = {"ms": "दिया", "mp": "दिए", "fs": "दी", "fp": "दीं"}
# complement that stands before the verb ("" if none), stem, perfective by agreement
VERBS = {
    "buy": ("", "खरीद", {"ms": "खरीदा", "mp": "खरीदे", "fs": "खरीदी", "fp": "खरीदीं"}),
    "sell": ("", "बेच", {"ms": "बेचा", "mp": "बेचे", "fs": "बेची", "fp": "बेचीं"}),
    "choose": ("", "चुन", {"ms": "चुना", "mp": "चुने", "fs": "चुनी", "fp": "चुनीं"}),
    "see": ("", "देख", {"ms": "देखा", "mp": "देखे", "fs": "देखी", "fp": "देखीं"}),
    "look for": ("", "ढूँढ", {"ms": "ढूँढा", "mp": "ढूँढे", "fs": "ढूँढी", "fp": "ढूँढीं"}),
    "lose": ("", "खो", {"ms": "खोया", "mp": "खोए", "fs": "खोई", "fp": "खोईं"}),
    "hide": ("", "छिपा", {"ms": "छिपाया", "mp": "छिपाए", "fs": "छिपाई", "fp": "छिपाईं"}),
    "read": ("", "पढ़", {"ms": "पढ़ा", "mp": "पढ़े", "fs": "पढ़ी", "fp": "पढ़ीं"}),
    "repair": ("ठीक ", "कर", KARNA_PAST),
    "wash": ("", "धो", {"ms": "धोया", "mp": "धोए", "fs": "धोई", "fp": "धोईं"}),
    "break": ("", "तोड़", {"ms": "तोड़ा", "mp": "तोड़े", "fs": "तोड़ी", "fp": "तोड़ीं"}),
    "use": ("इस्तेमाल ", "कर", KARNA_PAST),
    "give": ("", "दे", DENA_PAST),
    "show": ("", "दिखा", {"ms": "दिखाया", "mp": "दिखाए", "fs": "दिखाई", "fp": "दिखाईं"}),
    "send": ("", "भेज", {"ms": "भेजा", "mp": "भेजे", "fs": "भेजी", "fp": "भेजीं"}),
    "eat": ("", "खा", {"ms": "खाया", "mp": "खाए", "fs": "खाई", "fp": "खाईं"}),
    "drink": ("", "पी", {"ms": "पिया", "mp": "पिए", "fs": "पी", "fp": "पीं"}),
}
# postposition and complement after the other person, stem, perfective with ने (fixed); None: no ने, as in मिलना
MEETINGS = {
    "help": ("की मदद ", "कर", "की"),
    "meet": ("से ", "मिल", None),
    "call": ("को फ़ोन ", "कर", "किया"),
    "wait for": ("का इंतज़ार ", "कर", "किया"),
    "invite": ("को ", "बुला", "बुलाया"),
    "thank": ("को धन्यवाद ", "दे", "दिया"),
}
MILNA_PAST = {"ms": "मिला", "mp": "मिले", "fs": "मिली", "fp": "मिलीं"}
# complement, stem, perfective: one form with ने, or forms that agree with a subject without ने
ACTIONS = {
    "work": ("काम ", "कर", "किया"),
    "sleep": ("", "सो", {"ms": "सोया", "mp": "सोए", "fs": "सोई", "fp": "सोईं"}),
    "sing": ("गाना ", "गा", "गाया"),
    "play": ("", "खेल", {"ms": "खेला", "mp": "खेले", "fs": "खेली", "fp": "खेलीं"}),
    "study": ("पढ़ाई ", "कर", "की"),
    "dance": ("", "नाच", {"ms": "नाचा", "mp": "नाचे", "fs": "नाची", "fp": "नाचीं"}),
    "cook": ("खाना ", "पका", "पकाया"),
    "wait": ("इंतज़ार ", "कर", "किया"),
}
WENT = {"ms": "गया", "mp": "गए", "fs": "गई", "fp": "गईं"}
ARRIVED = {"ms": "पहुँचा", "mp": "पहुँचे", "fs": "पहुँची", "fp": "पहुँचीं"}
WAS = {"ms": "था", "mp": "थे", "fs": "थी", "fp": "थीं"}
OPINIONS = {"think": "सोच", "say": "कह", "know": "जान", "believe": "मान"}
# agreement, word
FOODS = {
    "bread": ("fs", "रोटी"),
    "rice": ("mp", "चावल"),
    "fish": ("fs", "मछली"),
    "meat": ("ms", "मांस"),
    "potatoes": ("mp", "आलू"),
    "fruit": ("mp", "फल"),
    "vegetables": ("fp", "सब्ज़ियाँ"),
    "beans": ("ms", "राजमा"),
}
DRINKS = {
    "tea": ("fs", "चाय"),
    "coffee": ("fs", "कॉफ़ी"),
    "milk": ("ms", "दूध"),
    "water": ("ms", "पानी"),
    "juice": ("ms", "रस"),
}
# oblique, postposition for where; where to has none
PLACES = {
    "market": ("बाज़ार", "में"),
    "school": ("स्कूल", "में"),
    "hospital": ("अस्पताल", "में"),
    "village": ("गाँव", "में"),
    "city": ("शहर", "में"),
    "garden": ("बग़ीचे", "में"),
    "kitchen": ("रसोई", "में"),
    "library": ("पुस्तकालय", "में"),
    "station": ("स्टेशन", "पर"),
    "harbour": ("बंदरगाह", "पर"),
    "shop": ("दुकान", "में"),
    "hotel": ("होटल", "में"),
    "office": ("दफ़्तर", "में"),
    "forest": ("जंगल", "में"),
    "beach": ("समुद्र तट", "पर"),
    "restaurant": ("रेस्तराँ", "में"),
}
TIMES = {  # कल is yesterday and tomorrow: the verb tells them apart
    "yesterday": "कल",
    "last night": "कल रात",
    "last week": "पिछले हफ़्ते",
    "last month": "पिछले महीने",
    "last year": "पिछले साल",
    "every day": "हर दिन",
    "every morning": "हर सुबह",
    "every week": "हर हफ़्ते",
    "every Monday": "हर सोमवार",
    "tomorrow": "कल",
    "tomorrow morning": "कल सुबह",
    "next week": "अगले हफ़्ते",
    "next month": "अगले महीने",
    "next year": "अगले साल",
}
# by agreement, before "was"
STATES = {
    "tired": {"ms": "थका हुआ", "mp": "थके हुए", "fs": "थकी हुई", "fp": "थकी हुई"},
    "ill": dict.fromkeys(("ms", "mp", "fs", "fp"), "बीमार"),
    "hungry": {"ms": "भूखा", "mp": "भूखे", "fs": "भूखी", "fp": "भूखी"},
    "thirsty": {"ms": "प्यासा", "mp": "प्यासे", "fs": "प्यासी", "fp": "प्यासी"},
    "sad": dict.fromkeys(("ms", "mp", "fs", "fp"), "उदास"),
    "busy": dict.fromkeys(("ms", "mp", "fs", "fp"), "व्यस्त"),
    "angry": dict.fromkeys(("ms", "mp", "fs", "fp"), "नाराज़"),
}
WEATHERS = {
    "rain": "बहुत बारिश हुई",
    "snow": "बहुत बर्फ़ गिरी",
    "cold": "बहुत ठंड थी",
    "hot": "बहुत गर्मी थी",
    "windy": "बहुत तेज़ हवा चली",
}
TASKS = {
    "answer": "पाठ के आधार पर प्रश्न का उत्तर दो।",
    "negate": "वाक्य को नकारात्मक बनाओ।",
    "retime": "वाक्य को किसी दूसरे समय के लिए फिर से लिखो: {time}।",
    "count": "कुल कितनी चीज़ें हैं? संख्या में उत्तर दो।",
}


def time_phrase(time: str) -> str:
    return {"yesterday": "बीता हुआ कल", "tomorrow": "आने वाला कल"}.get(time) or TIMES[time]


def noun_phrase(thing: g.Thing) -> str:
    """Direct case, as an object without को."""
    gender, singular, plural, _ = NOUNS[thing.noun]
    forms = ADJECTIVES[thing.adjective]
    adjective = forms[2] if gender == "f" else forms[1 if thing.count > 1 else 0]
    number = f"{NUMBERS[thing.count]} " if thing.count else ""
    return f"{number}{adjective} {plural if thing.count > 1 else singular}"


def agreement(thing: g.Thing | None) -> str:
    """What a verb with ने agrees with: the object; "what" is masculine singular."""
    if thing is None:
        return "ms"
    return NOUNS[thing.noun][0] + ("p" if thing.count > 1 else "s")


def direct(colour: str, noun: str) -> str:
    gender, singular, _, _ = NOUNS[noun]
    return f"{ADJECTIVES[colour][2 if gender == 'f' else 0]} {singular}"


def oblique(colour: str, noun: str) -> str:
    gender, _, _, form = NOUNS[noun]
    return f"{ADJECTIVES[colour][2 if gender == 'f' else 1]} {form}"


def habitual(stem: str, agrees: str, positive: bool = True) -> str:
    """Agrees with the subject; after नहीं the auxiliary falls away and leaves its nasal to the feminine plural."""
    participle = stem + {"ms": "ता", "mp": "ते", "fs": "ती", "fp": "ती"}[agrees]
    if positive:
        return f"{participle} {'हैं' if agrees[1] == 'p' else 'है'}"
    return f"{participle}ं" if agrees == "fp" else participle


def future(stem: str, agrees: str) -> str:
    ending = {"ms": "गा", "mp": "गे", "fs": "गी", "fp": "गी"}[agrees]
    plural = agrees[1] == "p"
    if stem == "दे":
        return ("दें" if plural else "दे") + ending
    if stem == "पी":
        stem = "पि"
    if stem[-1] in "ािो":  # a vowel: the ending is a letter of its own
        return stem + ("एँ" if plural else "ए") + ending
    return stem + ("ें" if plural else "े") + ending


def place_phrase(place: str) -> str:
    return " ".join(PLACES[place])


def clause(subject: str, verb: str, agrees_with: str, tense: g.Tense, middle: str, negation: str = "") -> str:
    """Subject (with ने in the past), what stands between, and a transitive verb. No subject asks who."""
    complement, stem, perfective = VERBS[verb]
    direct_form, oblique_form, agrees = PERSONS.get(subject, ("कौन", "किस", "ms"))
    if tense == "past":
        ergative = f"{oblique_form} ने" if subject else "किसने"
        return f"{ergative} {middle}{complement}{negation}{perfective[agrees_with]}"
    said = future(stem, agrees) if tense == "future" else habitual(stem, agrees, not negation)
    return f"{direct_form} {middle}{complement}{negation}{said}"


def answer(sentence: g.Act, asked: g.Mode) -> str:
    assert sentence.thing is not None
    person = PERSONS[sentence.subject]
    parts = {
        "who": f"{person[1]} ने" if g.TIMES[sentence.time] == "past" else person[0],
        "what": noun_phrase(sentence.thing),
        "where": place_phrase(sentence.place),
        "when": TIMES[sentence.time],
    }
    return g.sentence_case(parts[asked], "।")


def _act(sentence: g.Act) -> str:
    tense = sentence.tense
    thing = f"{noun_phrase(sentence.thing)} " if sentence.thing else ""
    place = f"{place_phrase(sentence.place)} " if sentence.place else ""
    time = f"{TIMES[sentence.time]} " if sentence.time in TIMES else ""
    middle = {
        "what": f"{time}{place}क्या ",
        "where": f"{time}{thing}कहाँ ",
        "when": f"{place}{thing}कब ",
    }.get(sentence.mode, time + place + thing)
    negation = "नहीं " if sentence.mode == "not" else ""
    said = clause(sentence.subject, sentence.verb, agreement(sentence.thing), tense, middle, negation)
    return f"क्या {said}" if sentence.mode == "whether" else said


def _meet(sentence: g.Meet) -> str:
    complement, stem, perfective = MEETINGS[sentence.verb]
    direct_form, oblique_form, agrees = PERSONS[sentence.subject]
    negation = "" if sentence.positive else "नहीं "
    middle = (
        f"{TIMES[sentence.time]} {place_phrase(sentence.place)} {PERSONS[sentence.other][1]} {complement}{negation}"
    )
    match g.TIMES[sentence.time]:
        case "past" if perfective is None:
            return f"{direct_form} {middle}{MILNA_PAST[agrees]}"
        case "past":
            return f"{oblique_form} ने {middle}{perfective}"
        case "present":
            return f"{direct_form} {middle}{habitual(stem, agrees, sentence.positive)}"
        case "future":
            return f"{direct_form} {middle}{future(stem, agrees)}"


def _because(sentence: g.Because) -> str:
    complement, _, perfective = ACTIONS[sentence.action]
    direct_form, oblique_form, agrees = PERSONS[sentence.subject]
    middle = f"{TIMES[sentence.time]} {place_phrase(sentence.place)} {complement}नहीं"
    if isinstance(perfective, str):
        said = f"{oblique_form} ने {middle} {perfective}"
    else:
        said = f"{direct_form} {middle} {perfective[agrees]}"
    pronoun = "वे" if agrees[1] == "p" else "वह"
    return f"{said} क्योंकि {pronoun} {STATES[sentence.state][agrees]} {WAS[agrees]}"


def _meal(sentence: g.Meal) -> str:
    (food_agrees, food), (drink_agrees, drink) = FOODS[sentence.food], DRINKS[sentence.drink]
    tense, agrees = g.TIMES[sentence.time], PERSONS[sentence.subject][2]
    middle = f"{TIMES[sentence.time]} {place_phrase(sentence.place)} {food} "
    drinks = {
        "past": VERBS["drink"][2][drink_agrees],
        "present": habitual("पी", agrees),
        "future": future("पी", agrees),
    }[tense]
    return f"{clause(sentence.subject, 'eat', food_agrees, tense, middle)} और {drink} {drinks}"


def linearise(sentence: g.Sentence) -> str:
    match sentence:
        case g.Act(mode=mode):
            return g.sentence_case(_act(sentence), "।" if mode in ("statement", "not") else "?")
        case g.Meet():
            text = _meet(sentence)
        case g.Meal():
            text = _meal(sentence)
        case g.Trip(subject, place, time, verb, thing):
            who, _, agrees = PERSONS[subject]
            goes = {"past": WENT[agrees], "present": habitual("जा", agrees), "future": future("जा", agrees)}[
                g.TIMES[time]
            ]
            text = (
                f"{TIMES[time]} {who} {noun_phrase(thing)} {''.join(VERBS[verb][:2])}ने के लिए {PLACES[place][0]} {goes}"
            )
        case g.Because():
            text = _because(sentence)
        case g.Both(time, subject, verb, thing, other, other_verb, other_thing):
            tense = g.TIMES[time]
            first = clause(subject, verb, agreement(thing), tense, f"{noun_phrase(thing)} ")
            second = clause(other, other_verb, agreement(other_thing), tense, f"{noun_phrase(other_thing)} ")
            text = f"{TIMES[time]} {first} और {second}"
        case g.Arrival(subject, place, time, other, action):
            who, _, agrees = PERSONS[subject]
            sleeper, _, other_agrees = PERSONS[other]
            progressive = {"ms": "रहा", "mp": "रहे", "fs": "रही", "fp": "रही"}[other_agrees]
            text = (
                f"जब {who} {TIMES[time]} {PLACES[place][0]} {ARRIVED[agrees]}, "
                f"तब {sleeper} {''.join(ACTIONS[action][:2])} {progressive} {WAS[other_agrees]}"
            )
        case g.Give(subject, verb, thing, receiver, time):
            middle = f"{PERSONS[receiver][1]} को {noun_phrase(thing)} "
            text = f"{TIMES[time]} {clause(subject, verb, agreement(thing), g.TIMES[time], middle)}"
        case g.Compare(noun, colour, quality, other, other_colour):
            predicate = ADJECTIVES[quality][2 if NOUNS[noun][0] == "f" else 0]
            text = f"यह {direct(colour, noun)} उस {oblique(other_colour, other)} से ज़्यादा {predicate} है"
        case g.Exist(place, thing, other):
            text = f"{place_phrase(place)} {noun_phrase(thing)} और {noun_phrase(other)} हैं"
        case g.Opinion(subject, verb, noun, colour, quality):
            who, _, agrees = PERSONS[subject]
            predicate = ADJECTIVES[quality][2 if NOUNS[noun][0] == "f" else 0]
            text = f"{who} {habitual(OPINIONS[verb], agrees)} कि यह {direct(colour, noun)} बहुत {predicate} है"
        case g.Weather(weather, time, subject, place, companion):
            who, _, agrees = PERSONS[subject]
            text = (
                f"{TIMES[time]} {WEATHERS[weather]}, इसलिए {who} {PERSONS[companion][1]} के साथ "
                f"{PLACES[place][0]} नहीं {WENT[agrees]}"
            )
        case g.Wish(subject, modal, verb, thing, place, time):
            who, _, agrees = PERSONS[subject]
            stem = "".join(VERBS[verb][:2])
            wishes = f"{stem}ना {habitual('चाह', agrees)}" if modal == "want" else f"{stem} {habitual('सक', agrees)}"
            text = f"{who} {TIMES[time]} {place_phrase(place)} {noun_phrase(thing)} {wishes}"
    return g.sentence_case(text, "।")
