"""German: abstract sentences in, text out. Verb second, brackets, cases and adjective endings."""

from pipelines import sample_grammar as g

# nominative, accusative, dative
PERSONS = {
    "teacher": ("der Lehrer", "den Lehrer", "dem Lehrer"),
    "doctor": ("der Arzt", "den Arzt", "dem Arzt"),
    "nurse": ("die Krankenschwester", "die Krankenschwester", "der Krankenschwester"),
    "farmer": ("der Bauer", "den Bauern", "dem Bauern"),
    "fisherman": ("der Fischer", "den Fischer", "dem Fischer"),
    "student": ("die Studentin", "die Studentin", "der Studentin"),
    "neighbour": ("der Nachbar", "den Nachbarn", "dem Nachbarn"),
    "driver": ("der Fahrer", "den Fahrer", "dem Fahrer"),
    "cook": ("der Koch", "den Koch", "dem Koch"),
    "singer": ("die Sängerin", "die Sängerin", "der Sängerin"),
    "writer": ("der Schriftsteller", "den Schriftsteller", "dem Schriftsteller"),
    "engineer": ("der Ingenieur", "den Ingenieur", "dem Ingenieur"),
    "boy": ("der Junge", "den Jungen", "dem Jungen"),
    "girl": ("das Mädchen", "das Mädchen", "dem Mädchen"),
    "old man": ("der alte Mann", "den alten Mann", "dem alten Mann"),
    "old woman": ("die alte Frau", "die alte Frau", "der alten Frau"),
    "mother": ("meine Mutter", "meine Mutter", "meiner Mutter"),
    "father": ("mein Vater", "meinen Vater", "meinem Vater"),
    "sister": ("meine Schwester", "meine Schwester", "meiner Schwester"),
    "brother": ("mein Bruder", "meinen Bruder", "meinem Bruder"),
    "grandmother": ("meine Großmutter", "meine Großmutter", "meiner Großmutter"),
    "friend": ("mein Freund", "meinen Freund", "meinem Freund"),
    "daughter": ("meine Tochter", "meine Tochter", "meiner Tochter"),
    "uncle": ("mein Onkel", "meinen Onkel", "meinem Onkel"),
}
# gender, singular, plural
NOUNS = {
    "book": ("n", "Buch", "Bücher"),
    "letter": ("m", "Brief", "Briefe"),
    "newspaper": ("f", "Zeitung", "Zeitungen"),
    "cup": ("f", "Tasse", "Tassen"),
    "plate": ("m", "Teller", "Teller"),
    "pot": ("m", "Topf", "Töpfe"),
    "bottle": ("f", "Flasche", "Flaschen"),
    "knife": ("n", "Messer", "Messer"),
    "spoon": ("m", "Löffel", "Löffel"),
    "shirt": ("n", "Hemd", "Hemden"),
    "hat": ("m", "Hut", "Hüte"),
    "dress": ("n", "Kleid", "Kleider"),
    "blanket": ("f", "Decke", "Decken"),
    "bicycle": ("n", "Fahrrad", "Fahrräder"),
    "car": ("n", "Auto", "Autos"),
    "clock": ("f", "Uhr", "Uhren"),
    "phone": ("n", "Telefon", "Telefone"),
    "lamp": ("f", "Lampe", "Lampen"),
    "boat": ("n", "Boot", "Boote"),
    "umbrella": ("m", "Regenschirm", "Regenschirme"),
    "guitar": ("f", "Gitarre", "Gitarren"),
    "table": ("m", "Tisch", "Tische"),
    "chair": ("m", "Stuhl", "Stühle"),
    "bed": ("n", "Bett", "Betten"),
    "mirror": ("m", "Spiegel", "Spiegel"),
    "carpet": ("m", "Teppich", "Teppiche"),
    "box": ("f", "Kiste", "Kisten"),
    "bag": ("f", "Tasche", "Taschen"),
    "basket": ("m", "Korb", "Körbe"),
    "key": ("m", "Schlüssel", "Schlüssel"),
    "picture": ("n", "Bild", "Bilder"),
}
# as a predicate; before endings it is also the stem, but for teuer
ADJECTIVES = {
    "red": "rot",
    "white": "weiß",
    "black": "schwarz",
    "blue": "blau",
    "green": "grün",
    "big": "groß",
    "small": "klein",
    "new": "neu",
    "old": "alt",
    "expensive": "teuer",
    "cheap": "billig",
    "beautiful": "schön",
    "heavy": "schwer",
    "dirty": "schmutzig",
    "clean": "sauber",
}
STEMS = ADJECTIVES | {"expensive": "teur"}
COMPARATIVES = {
    "big": "größer",
    "small": "kleiner",
    "new": "neuer",
    "old": "älter",
    "expensive": "teurer",
    "cheap": "billiger",
    "beautiful": "schöner",
    "heavy": "schwerer",
    "dirty": "schmutziger",
    "clean": "sauberer",
}
NUMBERS = {2: "zwei", 3: "drei", 4: "vier", 5: "fünf", 10: "zehn"}
# third person singular, participle, infinitive
VERBS = {
    "buy": ("kauft", "gekauft", "kaufen"),
    "sell": ("verkauft", "verkauft", "verkaufen"),
    "choose": ("wählt", "gewählt", "wählen"),
    "see": ("sieht", "gesehen", "sehen"),
    "look for": ("sucht", "gesucht", "suchen"),
    "lose": ("verliert", "verloren", "verlieren"),
    "hide": ("versteckt", "versteckt", "verstecken"),
    "read": ("liest", "gelesen", "lesen"),
    "repair": ("repariert", "repariert", "reparieren"),
    "wash": ("wäscht", "gewaschen", "waschen"),
    "break": ("zerbricht", "zerbrochen", "zerbrechen"),
    "use": ("benutzt", "benutzt", "benutzen"),
    "help": ("hilft", "geholfen", "helfen"),
    "meet": ("trifft", "getroffen", "treffen"),
    "call": ("ruft", "angerufen", "anrufen"),
    "wait for": ("wartet", "gewartet", "warten"),
    "invite": ("lädt", "eingeladen", "einladen"),
    "thank": ("dankt", "gedankt", "danken"),
    "give": ("gibt", "gegeben", "geben"),
    "show": ("zeigt", "gezeigt", "zeigen"),
    "send": ("schickt", "geschickt", "schicken"),
}
PARTICLES = {"call": " an", "invite": " ein"}  # of separable verbs, last in a main clause
DATIVE_VERBS = ("help", "thank")
# participle, preterite
ACTIONS = {
    "work": ("gearbeitet", "arbeitete"),
    "sleep": ("geschlafen", "schlief"),
    "sing": ("gesungen", "sang"),
    "play": ("gespielt", "spielte"),
    "study": ("gelernt", "lernte"),
    "dance": ("getanzt", "tanzte"),
    "cook": ("gekocht", "kochte"),
    "wait": ("gewartet", "wartete"),
}
MODALS = {"want": "möchte", "can": "kann"}
OPINIONS = {"think": "denkt", "say": "sagt", "know": "weiß", "believe": "glaubt"}
FOODS = {
    "bread": "Brot",
    "rice": "Reis",
    "fish": "Fisch",
    "meat": "Fleisch",
    "potatoes": "Kartoffeln",
    "fruit": "Obst",
    "vegetables": "Gemüse",
    "beans": "Bohnen",
}
DRINKS = {"tea": "Tee", "coffee": "Kaffee", "milk": "Milch", "water": "Wasser", "juice": "Saft"}
# where (dative), where to (accusative, or zu)
PLACES = {
    "market": ("auf dem Markt", "auf den Markt"),
    "school": ("in der Schule", "in die Schule"),
    "hospital": ("im Krankenhaus", "ins Krankenhaus"),
    "village": ("im Dorf", "ins Dorf"),
    "city": ("in der Stadt", "in die Stadt"),
    "garden": ("im Garten", "in den Garten"),
    "kitchen": ("in der Küche", "in die Küche"),
    "library": ("in der Bibliothek", "in die Bibliothek"),
    "station": ("am Bahnhof", "zum Bahnhof"),
    "harbour": ("am Hafen", "zum Hafen"),
    "shop": ("im Laden", "in den Laden"),
    "hotel": ("im Hotel", "ins Hotel"),
    "office": ("im Büro", "ins Büro"),
    "forest": ("im Wald", "in den Wald"),
    "beach": ("am Strand", "an den Strand"),
    "restaurant": ("im Restaurant", "ins Restaurant"),
}
TIMES = {
    "yesterday": "gestern",
    "last night": "gestern Abend",
    "last week": "letzte Woche",
    "last month": "letzten Monat",
    "last year": "letztes Jahr",
    "every day": "jeden Tag",
    "every morning": "jeden Morgen",
    "every week": "jede Woche",
    "every Monday": "jeden Montag",
    "tomorrow": "morgen",
    "tomorrow morning": "morgen früh",
    "next week": "nächste Woche",
    "next month": "nächsten Monat",
    "next year": "nächstes Jahr",
}
STATES = {
    "tired": "müde",
    "ill": "krank",
    "hungry": "hungrig",
    "thirsty": "durstig",
    "sad": "traurig",
    "busy": "beschäftigt",
    "angry": "wütend",
}
# verb second after a fronted time
WEATHERS = {
    "rain": "hat es viel geregnet",
    "snow": "hat es viel geschneit",
    "cold": "war es sehr kalt",
    "hot": "war es sehr heiß",
    "windy": "war es sehr windig",
}
TASKS = {
    "answer": "Beantworte die Frage mit Hilfe des Textes.",
    "negate": "Verneine den Satz.",
    "retime": "Schreibe den Satz so um, dass er von einer anderen Zeit handelt: {time}.",
    "count": "Wie viele Dinge sind es insgesamt? Antworte mit einer Zahl.",
}


def time_phrase(time: str) -> str:
    return TIMES[time]


def accusative(thing: g.Thing) -> str:
    """Weak endings after "the", mixed after "a", strong after a numeral."""
    gender, singular, plural = NOUNS[thing.noun]
    stem = STEMS[thing.adjective]
    if thing.count > 1:
        return f"{NUMBERS[thing.count]} {stem}e {plural}"
    if thing.count == 1:
        article, ending = {"m": ("einen", "en"), "f": ("eine", "e"), "n": ("ein", "es")}[gender]
    else:
        article, ending = {"m": ("den", "en"), "f": ("die", "e"), "n": ("das", "e")}[gender]
    return f"{article} {stem}{ending} {singular}"


def this_or_that(determiner: str, colour: str, noun: str) -> str:
    """Nominative after dies- or jen-."""
    gender, singular, _ = NOUNS[noun]
    ending = {"m": "er", "f": "e", "n": "es"}[gender]
    return f"{determiner}{ending} {STEMS[colour]}e {singular}"


def bracket(verb: str, tense: g.Tense) -> tuple[str, str]:
    """The finite verb in second place, and what closes the clause, with a space before it if it is not empty."""
    present, participle, infinitive = VERBS[verb]
    return {
        "past": ("hat", f" {participle}"),
        "present": (present, PARTICLES.get(verb, "")),
        "future": ("wird", f" {infinitive}"),
    }[tense]


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
    finite, close = bracket(sentence.verb, sentence.tense)
    subject = PERSONS[sentence.subject][0] if sentence.subject else ""
    thing = accusative(sentence.thing) if sentence.thing else ""
    place = PLACES[sentence.place][0] if sentence.place else ""
    time = TIMES.get(sentence.time, "")
    match sentence.mode:
        case "statement":
            return f"{subject} {finite} {time} {place} {thing}{close}"
        case "not":
            return f"{subject} {finite} {thing} {time} {place} nicht{close}"
        case "whether":
            return f"{finite} {subject} {time} {place} {thing}{close}"
        case "who":
            return f"wer {finite} {time} {place} {thing}{close}"
        case "what":
            return f"was {finite} {subject} {time} {place}{close}"
        case "where":
            return f"wo {finite} {subject} {time} {thing}{close}"
        case "when":
            return f"wann {finite} {subject} {place} {thing}{close}"


def _meet(sentence: g.Meet) -> str:
    finite, close = bracket(sentence.verb, g.TIMES[sentence.time])
    subject, place, time = PERSONS[sentence.subject][0], PLACES[sentence.place][0], TIMES[sentence.time]
    negation = "" if sentence.positive else " nicht"
    if sentence.verb == "wait for":
        return f"{subject} {finite} {time} {place}{negation} auf {PERSONS[sentence.other][1]}{close}"
    other = PERSONS[sentence.other][2 if sentence.verb in DATIVE_VERBS else 1]
    return f"{subject} {finite} {other} {time} {place}{negation}{close}"


def linearise(sentence: g.Sentence) -> str:
    match sentence:
        case g.Act(mode=mode):
            return g.sentence_case(_act(sentence), "." if mode in ("statement", "not") else "?")
        case g.Meet():
            text = _meet(sentence)
        case g.Meal(subject, food, drink, place, time):
            where = f"{TIMES[time]} {PLACES[place][0]}"
            eater, eaten, drunk = PERSONS[subject][0], FOODS[food], DRINKS[drink]
            text = {
                "past": f"{eater} hat {where} {eaten} gegessen und {drunk} getrunken",
                "present": f"{eater} isst {where} {eaten} und trinkt {drunk}",
                "future": f"{eater} wird {where} {eaten} essen und {drunk} trinken",
            }[g.TIMES[time]]
        case g.Trip(subject, place, time, verb, thing):
            finite, close = {"past": ("ist", " gegangen"), "present": ("geht", ""), "future": ("wird", " gehen")}[
                g.TIMES[time]
            ]
            text = (
                f"{TIMES[time]} {finite} {PERSONS[subject][0]} {PLACES[place][1]}{close}, "
                f"um {accusative(thing)} zu {VERBS[verb][2]}"
            )
        case g.Because(subject, action, place, time, state):
            pronoun = {"m": "er", "f": "sie"}[g.PERSONS[subject]]
            text = (
                f"{PERSONS[subject][0]} hat {TIMES[time]} {PLACES[place][0]} nicht {ACTIONS[action][0]}, "
                f"weil {pronoun} {STATES[state]} war"
            )
        case g.Both(time, subject, verb, thing, other, other_verb, other_thing):
            tense = g.TIMES[time]
            finite, close = bracket(verb, tense)
            other_finite, other_close = bracket(other_verb, tense)
            text = (
                f"{TIMES[time]} {finite} {PERSONS[subject][0]} {accusative(thing)}{close}, "
                f"und {PERSONS[other][0]} {other_finite} {accusative(other_thing)}{other_close}"
            )
        case g.Arrival(subject, place, time, other, action):
            text = (
                f"als {PERSONS[subject][0]} {TIMES[time]} {PLACES[place][0]} ankam, "
                f"{ACTIONS[action][1]} {PERSONS[other][0]}"
            )
        case g.Give(subject, verb, thing, receiver, time):
            finite, close = bracket(verb, g.TIMES[time])
            text = f"{TIMES[time]} {finite} {PERSONS[subject][0]} {PERSONS[receiver][2]} {accusative(thing)}{close}"
        case g.Compare(noun, colour, quality, other, other_colour):
            text = (
                f"{this_or_that('dies', colour, noun)} ist {COMPARATIVES[quality]} "
                f"als {this_or_that('jen', other_colour, other)}"
            )
        case g.Exist(place, thing, other):
            text = f"{PLACES[place][0]} gibt es {accusative(thing)} und {accusative(other)}"
        case g.Opinion(subject, verb, noun, colour, quality):
            text = (
                f"{PERSONS[subject][0]} {OPINIONS[verb]}, dass {this_or_that('dies', colour, noun)} "
                f"sehr {ADJECTIVES[quality]} ist"
            )
        case g.Weather(weather, time, subject, place, companion):
            text = (
                f"{TIMES[time]} {WEATHERS[weather]}, deshalb ist {PERSONS[subject][0]} nicht "
                f"mit {PERSONS[companion][2]} {PLACES[place][1]} gegangen"
            )
        case g.Wish(subject, modal, verb, thing, place, time):
            text = (
                f"{PERSONS[subject][0]} {MODALS[modal]} {TIMES[time]} {PLACES[place][0]} "
                f"{accusative(thing)} {VERBS[verb][2]}"
            )
    return g.sentence_case(text)
