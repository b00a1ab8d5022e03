"""French: abstract sentences in, text out. Gender, number, elision, contraction, partitives."""

from pipelines import sample_grammar as g

PERSONS = {
    "teacher": "le professeur",
    "doctor": "le médecin",
    "nurse": "l'infirmière",
    "farmer": "le fermier",
    "fisherman": "le pêcheur",
    "student": "l'étudiante",
    "neighbour": "le voisin",
    "driver": "le chauffeur",
    "cook": "le cuisinier",
    "singer": "la chanteuse",
    "writer": "l'écrivain",
    "engineer": "l'ingénieur",
    "boy": "le garçon",
    "girl": "la petite fille",
    "old man": "le vieil homme",
    "old woman": "la vieille dame",
    "mother": "ma mère",
    "father": "mon père",
    "sister": "ma sœur",
    "brother": "mon frère",
    "grandmother": "ma grand-mère",
    "friend": "mon ami",
    "daughter": "ma fille",
    "uncle": "mon oncle",
}
# gender, singular, plural
NOUNS = {
    "book": ("m", "livre", "livres"),
    "letter": ("f", "lettre", "lettres"),
    "newspaper": ("m", "journal", "journaux"),
    "cup": ("f", "tasse", "tasses"),
    "plate": ("f", "assiette", "assiettes"),
    "pot": ("f", "casserole", "casseroles"),
    "bottle": ("f", "bouteille", "bouteilles"),
    "knife": ("m", "couteau", "couteaux"),
    "spoon": ("f", "cuillère", "cuillères"),
    "shirt": ("f", "chemise", "chemises"),
    "hat": ("m", "chapeau", "chapeaux"),
    "dress": ("f", "robe", "robes"),
    "blanket": ("f", "couverture", "couvertures"),
    "bicycle": ("m", "vélo", "vélos"),
    "car": ("f", "voiture", "voitures"),
    "clock": ("f", "horloge", "horloges"),
    "phone": ("m", "téléphone", "téléphones"),
    "lamp": ("f", "lampe", "lampes"),
    "boat": ("m", "bateau", "bateaux"),
    "umbrella": ("m", "parapluie", "parapluies"),
    "guitar": ("f", "guitare", "guitares"),
    "table": ("f", "table", "tables"),
    "chair": ("f", "chaise", "chaises"),
    "bed": ("m", "lit", "lits"),
    "mirror": ("m", "miroir", "miroirs"),
    "carpet": ("m", "tapis", "tapis"),
    "box": ("f", "boîte", "boîtes"),
    "bag": ("m", "sac", "sacs"),
    "basket": ("m", "panier", "paniers"),
    "key": ("f", "clé", "clés"),
    "picture": ("m", "tableau", "tableaux"),
}
# masculine and feminine singular, masculine and feminine plural
ADJECTIVES = {
    "red": ("rouge", "rouge", "rouges", "rouges"),
    "white": ("blanc", "blanche", "blancs", "blanches"),
    "black": ("noir", "noire", "noirs", "noires"),
    "blue": ("bleu", "bleue", "bleus", "bleues"),
    "green": ("vert", "verte", "verts", "vertes"),
    "big": ("grand", "grande", "grands", "grandes"),
    "small": ("petit", "petite", "petits", "petites"),
    "new": ("neuf", "neuve", "neufs", "neuves"),
    "old": ("vieux", "vieille", "vieux", "vieilles"),
    "expensive": ("cher", "chère", "chers", "chères"),
    "cheap": ("bon marché", "bon marché", "bon marché", "bon marché"),
    "beautiful": ("beau", "belle", "beaux", "belles"),
    "heavy": ("lourd", "lourde", "lourds", "lourdes"),
    "dirty": ("sale", "sale", "sales", "sales"),
    "clean": ("propre", "propre", "propres", "propres"),
}
BEFORE_NOUN = ("big", "small", "old", "beautiful")
NUMBERS = {2: "deux", 3: "trois", 4: "quatre", 5: "cinq", 10: "dix"}
# present, participle, future, infinitive
VERBS = {
    "buy": ("achète", "acheté", "achètera", "acheter"),
    "sell": ("vend", "vendu", "vendra", "vendre"),
    "choose": ("choisit", "choisi", "choisira", "choisir"),
    "see": ("voit", "vu", "verra", "voir"),
    "look for": ("cherche", "cherché", "cherchera", "chercher"),
    "lose": ("perd", "perdu", "perdra", "perdre"),
    "hide": ("cache", "caché", "cachera", "cacher"),
    "read": ("lit", "lu", "lira", "lire"),
    "repair": ("répare", "réparé", "réparera", "réparer"),
    "wash": ("lave", "lavé", "lavera", "laver"),
    "break": ("casse", "cassé", "cassera", "casser"),
    "use": ("utilise", "utilisé", "utilisera", "utiliser"),
    "help": ("aide", "aidé", "aidera", "aider"),
    "meet": ("rencontre", "rencontré", "rencontrera", "rencontrer"),
    "call": ("appelle", "appelé", "appellera", "appeler"),
    "wait for": ("attend", "attendu", "attendra", "attendre"),
    "invite": ("invite", "invité", "invitera", "inviter"),
    "thank": ("remercie", "remercié", "remerciera", "remercier"),
    "give": ("donne", "donné", "donnera", "donner"),
    "show": ("montre", "montré", "montrera", "montrer"),
    "send": ("envoie", "envoyé", "enverra", "envoyer"),
    "eat": ("mange", "mangé", "mangera", "manger"),
    "drink": ("boit", "bu", "boira", "boire"),
}
# participle, imperfect
ACTIONS = {
    "work": ("travaillé", "travaillait"),
    "sleep": ("dormi", "dormait"),
    "sing": ("chanté", "chantait"),
    "play": ("joué", "jouait"),
    "study": ("étudié", "étudiait"),
    "dance": ("dansé", "dansait"),
    "cook": ("cuisiné", "cuisinait"),
    "wait": ("attendu", "attendait"),
}
MODALS = {"want": "veut", "can": "peut"}
OPINIONS = {"think": "pense", "say": "dit", "know": "sait", "believe": "croit"}
FOODS = {
    "bread": "du pain",
    "rice": "du riz",
    "fish": "du poisson",
    "meat": "de la viande",
    "potatoes": "des pommes de terre",
    "fruit": "des fruits",
    "vegetables": "des légumes",
    "beans": "des haricots",
}
DRINKS = {"tea": "du thé", "coffee": "du café", "milk": "du lait", "water": "de l'eau", "juice": "du jus"}
# where and where to are alike
PLACES = {
    "market": "au marché",
    "school": "à l'école",
    "hospital": "à l'hôpital",
    "village": "au village",
    "city": "en ville",
    "garden": "dans le jardin",
    "kitchen": "dans la cuisine",
    "library": "à la bibliothèque",
    "station": "à la gare",
    "harbour": "au port",
    "shop": "au magasin",
    "hotel": "à l'hôtel",
    "office": "au bureau",
    "forest": "dans la forêt",
    "beach": "à la plage",
    "restaurant": "au restaurant",
}
TIMES = {
    "yesterday": "hier",
    "last night": "hier soir",
    "last week": "la semaine dernière",
    "last month": "le mois dernier",
    "last year": "l'année dernière",
    "every day": "chaque jour",
    "every morning": "chaque matin",
    "every week": "chaque semaine",
    "every Monday": "chaque lundi",
    "tomorrow": "demain",
    "tomorrow morning": "demain matin",
    "next week": "la semaine prochaine",
    "next month": "le mois prochain",
    "next year": "l'année prochaine",
}
# masculine, feminine
STATES = {
    "tired": ("était fatigué", "était fatiguée"),
    "ill": ("était malade", "était malade"),
    "hungry": ("avait faim", "avait faim"),
    "thirsty": ("avait soif", "avait soif"),
    "sad": ("était triste", "était triste"),
    "busy": ("était occupé", "était occupée"),
    "angry": ("était en colère", "était en colère"),
}
WEATHERS = {
    "rain": "il a beaucoup plu",
    "snow": "il a beaucoup neigé",
    "cold": "il a fait très froid",
    "hot": "il a fait très chaud",
    "windy": "il y a eu beaucoup de vent",
}
TASKS = {
    "answer": "Réponds à la question à l'aide du texte.",
    "negate": "Mets la phrase à la forme négative.",
    "retime": "Réécris la phrase pour qu'elle parle d'un autre moment : {time}.",
    "count": "Combien de choses y a-t-il en tout ? Réponds par un nombre.",
}
VOWELS = "aeéèêiîoôuyœh"  # no noun or verb here has an aspirated h


def time_phrase(time: str) -> str:
    return TIMES[time]


def elided(word: str, following: str) -> str:
    """ "la" and "assiette" give "l'assiette"."""
    return f"{word[:-1]}'{following}" if following[0] in VOWELS else f"{word} {following}"


def contracted_a(noun_phrase: str) -> str:
    """The preposition à before a noun phrase: au professeur, à la chanteuse."""
    return f"au {noun_phrase[3:]}" if noun_phrase.startswith("le ") else f"à {noun_phrase}"


def _form(adjective: str, gender: str, plural: bool) -> str:
    return ADJECTIVES[adjective][2 * plural + (gender == "f")]


def _words(noun: str, adjective: str, plural: bool) -> str:
    """Noun and adjective, agreeing and in order."""
    gender, one, many = NOUNS[noun]
    word, form = many if plural else one, _form(adjective, gender, plural)
    return f"{form} {word}" if adjective in BEFORE_NOUN else f"{word} {form}"


def noun_phrase(thing: g.Thing) -> str:
    words = _words(thing.noun, thing.adjective, thing.count > 1)
    if thing.count > 1:
        return f"{NUMBERS[thing.count]} {words}"
    feminine = NOUNS[thing.noun][0] == "f"
    if thing.count == 1:
        return f"{'une' if feminine else 'un'} {words}"
    return elided("la" if feminine else "le", words)


def this(colour: str, noun: str) -> str:
    """Colours follow the noun, and no masculine noun here begins with a vowel: never "cet"."""
    return f"{'cette' if NOUNS[noun][0] == 'f' else 'ce'} {_words(noun, colour, False)}"


def finite(verb: str, tense: g.Tense, positive: bool = True) -> str:
    """Third person singular; the perfect with avoir is the past. Negation goes around the finite verb."""
    present, participle, future, _ = VERBS[verb]
    head, tail = {"past": ("a", f" {participle}"), "present": (present, ""), "future": (future, "")}[tense]
    return head + tail if positive else f"{elided('ne', head)} pas{tail}"


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
    verb = finite(sentence.verb, sentence.tense, sentence.mode != "not")
    subject = PERSONS.get(sentence.subject, "")
    thing = noun_phrase(sentence.thing) if sentence.thing else ""
    place, time = PLACES.get(sentence.place, ""), TIMES.get(sentence.time, "")
    match sentence.mode:
        case "statement" | "not":
            return f"{subject} {verb} {thing} {place} {time}"
        case "whether":
            return f"est-ce que {subject} {verb} {thing} {place} {time}"
        case "who":
            return f"qui {verb} {thing} {place} {time}"
        case "what":
            return f"qu'est-ce que {subject} {verb} {place} {time}"
        case "where":
            return f"où est-ce que {subject} {verb} {thing} {time}"
        case "when":
            return f"quand est-ce que {subject} {verb} {thing} {place}"


def linearise(sentence: g.Sentence) -> str:
    match sentence:
        case g.Act(mode=mode):
            return g.sentence_case(_act(sentence), "." if mode in ("statement", "not") else " ?")
        case g.Meet(positive, subject, verb, other, place, time):
            said = finite(verb, g.TIMES[time], positive)
            text = f"{PERSONS[subject]} {said} {PERSONS[other]} {PLACES[place]} {TIMES[time]}"
        case g.Meal(subject, food, drink, place, time):
            tense = g.TIMES[time]
            text = (
                f"{PERSONS[subject]} {finite('eat', tense)} {FOODS[food]} et {finite('drink', tense)} "
                f"{DRINKS[drink]} {PLACES[place]} {TIMES[time]}"
            )
        case g.Trip(subject, place, time, verb, thing):
            gone = {"m": "est allé", "f": "est allée"}[g.PERSONS[subject]]
            goes = {"past": gone, "present": "va", "future": "ira"}[g.TIMES[time]]
            text = (
                f"{TIMES[time]}, {PERSONS[subject]} {goes} {PLACES[place]} pour {VERBS[verb][3]} {noun_phrase(thing)}"
            )
        case g.Because(subject, action, place, time, state):
            feminine = g.PERSONS[subject] == "f"
            text = (
                f"{PERSONS[subject]} n'a pas {ACTIONS[action][0]} {PLACES[place]} {TIMES[time]} "
                f"parce qu'{'elle' if feminine else 'il'} {STATES[state][feminine]}"
            )
        case g.Both(time, subject, verb, thing, other, other_verb, other_thing):
            tense = g.TIMES[time]
            text = (
                f"{TIMES[time]}, {PERSONS[subject]} {finite(verb, tense)} {noun_phrase(thing)} "
                f"et {PERSONS[other]} {finite(other_verb, tense)} {noun_phrase(other_thing)}"
            )
        case g.Arrival(subject, place, time, other, action):
            arrived = {"m": "est arrivé", "f": "est arrivée"}[g.PERSONS[subject]]
            text = (
                f"quand {PERSONS[subject]} {arrived} {PLACES[place]} {TIMES[time]}, "
                f"{PERSONS[other]} {ACTIONS[action][1]}"
            )
        case g.Give(subject, verb, thing, receiver, time):
            text = (
                f"{TIMES[time]}, {PERSONS[subject]} {finite(verb, g.TIMES[time])} {noun_phrase(thing)} "
                f"{contracted_a(PERSONS[receiver])}"
            )
        case g.Compare(noun, colour, quality, other, other_colour):
            more = "meilleur marché" if quality == "cheap" else f"plus {_form(quality, NOUNS[noun][0], False)}"
            text = f"{this(colour, noun)} est {more} que {this(other_colour, other)}-là"
        case g.Exist(place, thing, other):
            text = f"il y a {noun_phrase(thing)} et {noun_phrase(other)} {PLACES[place]}"
        case g.Opinion(subject, verb, noun, colour, quality):
            text = (
                f"{PERSONS[subject]} {OPINIONS[verb]} que {this(colour, noun)} est très "
                f"{_form(quality, NOUNS[noun][0], False)}"
            )
        case g.Weather(weather, time, subject, place, companion):
            gone = {"m": "allé", "f": "allée"}[g.PERSONS[subject]]
            text = (
                f"{TIMES[time]}, {WEATHERS[weather]}, alors {PERSONS[subject]} n'est pas {gone} {PLACES[place]} "
                f"avec {PERSONS[companion]}"
            )
        case g.Wish(subject, modal, verb, thing, place, time):
            text = (
                f"{PERSONS[subject]} {MODALS[modal]} {VERBS[verb][3]} {noun_phrase(thing)} "
                f"{PLACES[place]} {TIMES[time]}"
            )
    return g.sentence_case(text)
