"""English: abstract sentences in, text out."""

from pipelines import sample_grammar as g

PERSONS = {
    person: (
        "my "
        if person in ("mother", "father", "sister", "brother", "grandmother", "friend", "daughter", "uncle")
        else "the "
    )
    + person
    for person in g.PERSONS
}
# base, third person singular, past
VERBS = {
    "buy": ("buy", "buys", "bought"),
    "sell": ("sell", "sells", "sold"),
    "choose": ("choose", "chooses", "chose"),
    "see": ("see", "sees", "saw"),
    "look for": ("look for", "looks for", "looked for"),
    "lose": ("lose", "loses", "lost"),
    "hide": ("hide", "hides", "hid"),
    "read": ("read", "reads", "read"),
    "repair": ("repair", "repairs", "repaired"),
    "wash": ("wash", "washes", "washed"),
    "break": ("break", "breaks", "broke"),
    "use": ("use", "uses", "used"),
    "help": ("help", "helps", "helped"),
    "meet": ("meet", "meets", "met"),
    "call": ("call", "calls", "called"),
    "wait for": ("wait for", "waits for", "waited for"),
    "invite": ("invite", "invites", "invited"),
    "thank": ("thank", "thanks", "thanked"),
    "give": ("give", "gives", "gave"),
    "show": ("show", "shows", "showed"),
    "send": ("send", "sends", "sent"),
    "eat": ("eat", "eats", "ate"),
    "drink": ("drink", "drinks", "drank"),
    "go": ("go", "goes", "went"),
}
# base, -ing form
ACTIONS = {
    "work": ("work", "working"),
    "sleep": ("sleep", "sleeping"),
    "sing": ("sing", "singing"),
    "play": ("play", "playing"),
    "study": ("study", "studying"),
    "dance": ("dance", "dancing"),
    "cook": ("cook", "cooking"),
    "wait": ("wait", "waiting"),
}
MODALS = {"want": "wants to", "can": "can"}
OPINIONS = {"think": "thinks", "say": "says", "know": "knows", "believe": "believes"}
PLURALS = {"box": "boxes", "knife": "knives", "dress": "dresses"}  # otherwise -s
COMPARATIVES = {
    "big": "bigger",
    "small": "smaller",
    "new": "newer",
    "old": "older",
    "expensive": "more expensive",
    "cheap": "cheaper",
    "beautiful": "more beautiful",
    "heavy": "heavier",
    "dirty": "dirtier",
    "clean": "cleaner",
}
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 10: "ten"}
PLACES = {
    place: {"city": "in", "village": "in", "garden": "in", "kitchen": "in", "forest": "in", "beach": "on"}.get(
        place, "at"
    )
    + " the "
    + place
    for place in g.PLACES
}
WEATHERS = {
    "rain": "it rained a lot",
    "snow": "it snowed a lot",
    "cold": "it was very cold",
    "hot": "it was very hot",
    "windy": "it was very windy",
}
TASKS = {
    "answer": "Answer the question using the text.",
    "negate": "Make the sentence negative.",
    "retime": "Rewrite the sentence so that it speaks of another time: {time}.",
    "count": "How many things are there in all? Answer with a number.",
}


def time_phrase(time: str) -> str:
    return time


def noun_phrase(thing: g.Thing) -> str:
    if thing.count > 1:
        return f"{NUMBERS[thing.count]} {thing.adjective} {PLURALS.get(thing.noun, thing.noun + 's')}"
    article = "the" if thing.count == 0 else "an" if thing.adjective[0] in "aeiou" else "a"
    return f"{article} {thing.adjective} {thing.noun}"


def finite(verb: str, tense: g.Tense) -> str:
    """Third person singular."""
    base, present, past = VERBS[verb]
    return {"past": past, "present": present, "future": f"will {base}"}[tense]


def auxiliary(tense: g.Tense) -> str:
    """The word that carries tense in questions and denials."""
    return {"past": "did", "present": "does", "future": "will"}[tense]


def answer(sentence: g.Act, asked: g.Mode) -> str:
    assert sentence.thing is not None
    parts = {
        "who": PERSONS[sentence.subject],
        "what": noun_phrase(sentence.thing),
        "where": PLACES[sentence.place],
        "when": sentence.time,
    }
    return g.sentence_case(parts[asked])


def _act(sentence: g.Act) -> str:
    tense = sentence.tense
    base = VERBS[sentence.verb][0]
    subject = PERSONS.get(sentence.subject, "")
    thing = noun_phrase(sentence.thing) if sentence.thing else ""
    place = PLACES.get(sentence.place, "")
    time = sentence.time
    match sentence.mode:
        case "statement":
            return f"{subject} {finite(sentence.verb, tense)} {thing} {place} {time}"
        case "not":
            return f"{subject} {auxiliary(tense)} not {base} {thing} {place} {time}"
        case "whether":
            return f"{auxiliary(tense)} {subject} {base} {thing} {place} {time}"
        case "who":
            return f"who {finite(sentence.verb, tense)} {thing} {place} {time}"
        case "what":
            return f"what {auxiliary(tense)} {subject} {base} {place} {time}"
        case "where":
            return f"where {auxiliary(tense)} {subject} {base} {thing} {time}"
        case "when":
            return f"when {auxiliary(tense)} {subject} {base} {thing} {place}"


def linearise(sentence: g.Sentence) -> str:
    match sentence:
        case g.Act(mode=mode):
            return g.sentence_case(_act(sentence), "." if mode in ("statement", "not") else "?")
        case g.Meet(positive, subject, verb, other, place, time):
            tense = g.TIMES[time]
            said = finite(verb, tense) if positive else f"{auxiliary(tense)} not {VERBS[verb][0]}"
            text = f"{PERSONS[subject]} {said} {PERSONS[other]} {PLACES[place]} {time}"
        case g.Meal(subject, food, drink, place, time):
            tense = g.TIMES[time]
            drinks = "drink" if tense == "future" else finite("drink", tense)
            text = f"{PERSONS[subject]} {finite('eat', tense)} {food} and {drinks} {drink} {PLACES[place]} {time}"
        case g.Trip(subject, place, time, verb, thing):
            goes = finite("go", g.TIMES[time])
            text = f"{time} {PERSONS[subject]} {goes} to the {place} to {verb} {noun_phrase(thing)}"
        case g.Because(subject, action, place, time, state):
            pronoun = {"m": "he", "f": "she"}[g.PERSONS[subject]]
            text = (
                f"{PERSONS[subject]} did not {ACTIONS[action][0]} {PLACES[place]} {time} because {pronoun} was {state}"
            )
        case g.Both(time, subject, verb, thing, other, other_verb, other_thing):
            tense = g.TIMES[time]
            text = (
                f"{time} {PERSONS[subject]} {finite(verb, tense)} {noun_phrase(thing)} "
                f"and {PERSONS[other]} {finite(other_verb, tense)} {noun_phrase(other_thing)}"
            )
        case g.Arrival(subject, place, time, other, action):
            text = f"when {PERSONS[subject]} arrived {PLACES[place]} {time}, {PERSONS[other]} was {ACTIONS[action][1]}"
        case g.Give(subject, verb, thing, receiver, time):
            text = (
                f"{time} {PERSONS[subject]} {finite(verb, g.TIMES[time])} {noun_phrase(thing)} to {PERSONS[receiver]}"
            )
        case g.Compare(noun, colour, quality, other, other_colour):
            text = f"this {colour} {noun} is {COMPARATIVES[quality]} than that {other_colour} {other}"
        case g.Exist(place, thing, other):
            text = f"there are {noun_phrase(thing)} and {noun_phrase(other)} {PLACES[place]}"
        case g.Opinion(subject, verb, noun, colour, quality):
            text = f"{PERSONS[subject]} {OPINIONS[verb]} that this {colour} {noun} is very {quality}"
        case g.Weather(weather, time, subject, place, companion):
            text = (
                f"{time} {WEATHERS[weather]}, so {PERSONS[subject]} did not go to the {place} with {PERSONS[companion]}"
            )
        case g.Wish(subject, modal, verb, thing, place, time):
            text = f"{PERSONS[subject]} {MODALS[modal]} {VERBS[verb][0]} {noun_phrase(thing)} {PLACES[place]} {time}"
    return g.sentence_case(text)
