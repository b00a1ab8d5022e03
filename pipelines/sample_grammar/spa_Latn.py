"""Spanish: abstract sentences in, text out. Gender, number, personal a, contraction, ser and estar."""

from pipelines import sample_grammar as g

PERSONS = {
    "teacher": "el profesor",
    "doctor": "el médico",
    "nurse": "la enfermera",
    "farmer": "el agricultor",
    "fisherman": "el pescador",
    "student": "la estudiante",
    "neighbour": "el vecino",
    "driver": "el conductor",
    "cook": "el cocinero",
    "singer": "la cantante",
    "writer": "el escritor",
    "engineer": "el ingeniero",
    "boy": "el niño",
    "girl": "la niña",
    "old man": "el anciano",
    "old woman": "la anciana",
    "mother": "mi madre",
    "father": "mi padre",
    "sister": "mi hermana",
    "brother": "mi hermano",
    "grandmother": "mi abuela",
    "friend": "mi amigo",
    "daughter": "mi hija",
    "uncle": "mi tío",
}
# gender, singular, plural
NOUNS = {
    "book": ("m", "libro", "libros"),
    "letter": ("f", "carta", "cartas"),
    "newspaper": ("m", "periódico", "periódicos"),
    "cup": ("f", "taza", "tazas"),
    "plate": ("m", "plato", "platos"),
    "pot": ("f", "olla", "ollas"),
    "bottle": ("f", "botella", "botellas"),
    "knife": ("m", "cuchillo", "cuchillos"),
    "spoon": ("f", "cuchara", "cucharas"),
    "shirt": ("f", "camisa", "camisas"),
    "hat": ("m", "sombrero", "sombreros"),
    "dress": ("m", "vestido", "vestidos"),
    "blanket": ("f", "manta", "mantas"),
    "bicycle": ("f", "bicicleta", "bicicletas"),
    "car": ("m", "coche", "coches"),
    "clock": ("m", "reloj", "relojes"),
    "phone": ("m", "teléfono", "teléfonos"),
    "lamp": ("f", "lámpara", "lámparas"),
    "boat": ("m", "barco", "barcos"),
    "umbrella": ("m", "paraguas", "paraguas"),
    "guitar": ("f", "guitarra", "guitarras"),
    "table": ("f", "mesa", "mesas"),
    "chair": ("f", "silla", "sillas"),
    "bed": ("f", "cama", "camas"),
    "mirror": ("m", "espejo", "espejos"),
    "carpet": ("f", "alfombra", "alfombras"),
    "box": ("f", "caja", "cajas"),
    "bag": ("f", "bolsa", "bolsas"),
    "basket": ("f", "cesta", "cestas"),
    "key": ("f", "llave", "llaves"),
    "picture": ("m", "cuadro", "cuadros"),
}
# masculine and feminine singular; the plural adds -s, or -es after a consonant
ADJECTIVES = {
    "red": ("rojo", "roja"),
    "white": ("blanco", "blanca"),
    "black": ("negro", "negra"),
    "blue": ("azul", "azul"),
    "green": ("verde", "verde"),
    "big": ("grande", "grande"),
    "small": ("pequeño", "pequeña"),
    "new": ("nuevo", "nueva"),
    "old": ("viejo", "vieja"),
    "expensive": ("caro", "cara"),
    "cheap": ("barato", "barata"),
    "beautiful": ("bonito", "bonita"),
    "heavy": ("pesado", "pesada"),
    "dirty": ("sucio", "sucia"),
    "clean": ("limpio", "limpia"),
}
WITH_ESTAR = ("dirty", "clean")  # states; the other qualities take ser
NUMBERS = {2: "dos", 3: "tres", 4: "cuatro", 5: "cinco", 10: "diez"}
# preterite, present, future, infinitive
VERBS = {
    "buy": ("compró", "compra", "comprará", "comprar"),
    "sell": ("vendió", "vende", "venderá", "vender"),
    "choose": ("eligió", "elige", "elegirá", "elegir"),
    "see": ("vio", "ve", "verá", "ver"),
    "look for": ("buscó", "busca", "buscará", "buscar"),
    "lose": ("perdió", "pierde", "perderá", "perder"),
    "hide": ("escondió", "esconde", "esconderá", "esconder"),
    "read": ("leyó", "lee", "leerá", "leer"),
    "repair": ("reparó", "repara", "reparará", "reparar"),
    "wash": ("lavó", "lava", "lavará", "lavar"),
    "break": ("rompió", "rompe", "romperá", "romper"),
    "use": ("usó", "usa", "usará", "usar"),
    "help": ("ayudó", "ayuda", "ayudará", "ayudar"),
    "meet": ("se encontró", "se encuentra", "se encontrará", "encontrarse"),
    "call": ("llamó", "llama", "llamará", "llamar"),
    "wait for": ("esperó", "espera", "esperará", "esperar"),
    "invite": ("invitó", "invita", "invitará", "invitar"),
    "thank": ("le dio las gracias", "le da las gracias", "le dará las gracias", "darle las gracias"),
    "give": ("le dio", "le da", "le dará", "darle"),
    "show": ("le mostró", "le muestra", "le mostrará", "mostrarle"),
    "send": ("le envió", "le envía", "le enviará", "enviarle"),
    "eat": ("comió", "come", "comerá", "comer"),
    "drink": ("bebió", "bebe", "beberá", "beber"),
    "go": ("fue", "va", "irá", "ir"),
}
# preterite, gerund
ACTIONS = {
    "work": ("trabajó", "trabajando"),
    "sleep": ("durmió", "durmiendo"),
    "sing": ("cantó", "cantando"),
    "play": ("jugó", "jugando"),
    "study": ("estudió", "estudiando"),
    "dance": ("bailó", "bailando"),
    "cook": ("cocinó", "cocinando"),
    "wait": ("esperó", "esperando"),
}
MODALS = {"want": "quiere", "can": "puede"}
OPINIONS = {"think": "piensa", "say": "dice", "know": "sabe", "believe": "cree"}
FOODS = {
    "bread": "pan",
    "rice": "arroz",
    "fish": "pescado",
    "meat": "carne",
    "potatoes": "patatas",
    "fruit": "fruta",
    "vegetables": "verduras",
    "beans": "frijoles",
}
DRINKS = {"tea": "té", "coffee": "café", "milk": "leche", "water": "agua", "juice": "zumo"}
PLACES = {
    "market": "el mercado",
    "school": "la escuela",
    "hospital": "el hospital",
    "village": "el pueblo",
    "city": "la ciudad",
    "garden": "el jardín",
    "kitchen": "la cocina",
    "library": "la biblioteca",
    "station": "la estación",
    "harbour": "el puerto",
    "shop": "la tienda",
    "hotel": "el hotel",
    "office": "la oficina",
    "forest": "el bosque",
    "beach": "la playa",
    "restaurant": "el restaurante",
}
TIMES = {
    "yesterday": "ayer",
    "last night": "anoche",
    "last week": "la semana pasada",
    "last month": "el mes pasado",
    "last year": "el año pasado",
    "every day": "cada día",
    "every morning": "cada mañana",
    "every week": "cada semana",
    "every Monday": "cada lunes",
    "tomorrow": "mañana",
    "tomorrow morning": "mañana por la mañana",
    "next week": "la próxima semana",
    "next month": "el próximo mes",
    "next year": "el próximo año",
}
# masculine, feminine
STATES = {
    "tired": ("estaba cansado", "estaba cansada"),
    "ill": ("estaba enfermo", "estaba enferma"),
    "hungry": ("tenía hambre", "tenía hambre"),
    "thirsty": ("tenía sed", "tenía sed"),
    "sad": ("estaba triste", "estaba triste"),
    "busy": ("estaba ocupado", "estaba ocupada"),
    "angry": ("estaba enfadado", "estaba enfadada"),
}
WEATHERS = {
    "rain": "llovió mucho",
    "snow": "nevó mucho",
    "cold": "hizo mucho frío",
    "hot": "hizo mucho calor",
    "windy": "hizo mucho viento",
}
TASKS = {
    "answer": "Responde a la pregunta con ayuda del texto.",
    "negate": "Pon la frase en forma negativa.",
    "retime": "Reescribe la frase para que hable de otro momento: {time}.",
    "count": "¿Cuántas cosas hay en total? Responde con un número.",
}


def time_phrase(time: str) -> str:
    return TIMES[time]


def contracted_a(noun_phrase: str) -> str:
    """The preposition a, also the personal a, before a noun phrase: al profesor, a la niña."""
    return f"al {noun_phrase[3:]}" if noun_phrase.startswith("el ") else f"a {noun_phrase}"


def _form(adjective: str, gender: str, plural: bool = False) -> str:
    form = ADJECTIVES[adjective][gender == "f"]
    if not plural:
        return form
    return form + ("s" if form[-1] in "aeo" else "es")


def noun_phrase(thing: g.Thing) -> str:
    gender, one, many = NOUNS[thing.noun]
    adjective = _form(thing.adjective, gender, thing.count > 1)
    if thing.count > 1:
        return f"{NUMBERS[thing.count]} {many} {adjective}"
    article = {(0, "m"): "el", (0, "f"): "la", (1, "m"): "un", (1, "f"): "una"}[thing.count, gender]
    return f"{article} {one} {adjective}"


def this_or_that(masculine: str, feminine: str, colour: str, noun: str) -> str:
    gender, one, _ = NOUNS[noun]
    return f"{feminine if gender == 'f' else masculine} {one} {_form(colour, gender)}"


def copula(quality: str) -> str:
    return "está" if quality in WITH_ESTAR else "es"


def finite(verb: str, tense: g.Tense) -> str:
    """Third person singular, clitics before it."""
    past, present, future, _ = VERBS[verb]
    return {"past": past, "present": present, "future": future}[tense]


def answer(sentence: g.Act, asked: g.Mode) -> str:
    assert sentence.thing is not None
    parts = {
        "who": PERSONS[sentence.subject],
        "what": noun_phrase(sentence.thing),
        "where": f"en {PLACES[sentence.place]}",
        "when": TIMES[sentence.time],
    }
    return g.sentence_case(parts[asked])


def _act(sentence: g.Act) -> str:
    verb = finite(sentence.verb, sentence.tense)
    subject = PERSONS.get(sentence.subject, "")
    thing = noun_phrase(sentence.thing) if sentence.thing else ""
    place = f"en {PLACES[sentence.place]}" if sentence.place else ""
    time = TIMES.get(sentence.time, "")
    match sentence.mode:
        case "statement":
            return f"{subject} {verb} {thing} {place} {time}"
        case "not":
            return f"{subject} no {verb} {thing} {place} {time}"
        case "whether":
            return f"{verb} {subject} {thing} {place} {time}"
        case "who":
            return f"quién {verb} {thing} {place} {time}"
        case "what":
            return f"qué {verb} {subject} {place} {time}"
        case "where":
            return f"dónde {verb} {subject} {thing} {time}"
        case "when":
            return f"cuándo {verb} {subject} {thing} {place}"


def linearise(sentence: g.Sentence) -> str:
    match sentence:
        case g.Act(mode=mode):
            text = _act(sentence)
            return g.sentence_case(text) if mode in ("statement", "not") else "¿" + g.sentence_case(text, "?")
        case g.Meet(positive, subject, verb, other, place, time):
            said = finite(verb, g.TIMES[time]) if positive else f"no {finite(verb, g.TIMES[time])}"
            met = f"con {PERSONS[other]}" if verb == "meet" else contracted_a(PERSONS[other])
            text = f"{PERSONS[subject]} {said} {met} en {PLACES[place]} {TIMES[time]}"
        case g.Meal(subject, food, drink, place, time):
            tense = g.TIMES[time]
            text = (
                f"{PERSONS[subject]} {finite('eat', tense)} {FOODS[food]} y {finite('drink', tense)} "
                f"{DRINKS[drink]} en {PLACES[place]} {TIMES[time]}"
            )
        case g.Trip(subject, place, time, verb, thing):
            text = (
                f"{TIMES[time]} {PERSONS[subject]} {finite('go', g.TIMES[time])} {contracted_a(PLACES[place])} "
                f"para {VERBS[verb][3]} {noun_phrase(thing)}"
            )
        case g.Because(subject, action, place, time, state):
            text = (
                f"{PERSONS[subject]} no {ACTIONS[action][0]} en {PLACES[place]} {TIMES[time]} "
                f"porque {STATES[state][g.PERSONS[subject] == 'f']}"
            )
        case g.Both(time, subject, verb, thing, other, other_verb, other_thing):
            tense = g.TIMES[time]
            text = (
                f"{TIMES[time]} {PERSONS[subject]} {finite(verb, tense)} {noun_phrase(thing)} "
                f"y {PERSONS[other]} {finite(other_verb, tense)} {noun_phrase(other_thing)}"
            )
        case g.Arrival(subject, place, time, other, action):
            text = (
                f"cuando {PERSONS[subject]} llegó {contracted_a(PLACES[place])} {TIMES[time]}, "
                f"{PERSONS[other]} estaba {ACTIONS[action][1]}"
            )
        case g.Give(subject, verb, thing, receiver, time):
            text = (
                f"{TIMES[time]} {PERSONS[subject]} {finite(verb, g.TIMES[time])} {noun_phrase(thing)} "
                f"{contracted_a(PERSONS[receiver])}"
            )
        case g.Compare(noun, colour, quality, other, other_colour):
            text = (
                f"{this_or_that('este', 'esta', colour, noun)} {copula(quality)} más "
                f"{_form(quality, NOUNS[noun][0])} que {this_or_that('ese', 'esa', other_colour, other)}"
            )
        case g.Exist(place, thing, other):
            text = f"en {PLACES[place]} hay {noun_phrase(thing)} y {noun_phrase(other)}"
        case g.Opinion(subject, verb, noun, colour, quality):
            text = (
                f"{PERSONS[subject]} {OPINIONS[verb]} que {this_or_that('este', 'esta', colour, noun)} "
                f"{copula(quality)} muy {_form(quality, NOUNS[noun][0])}"
            )
        case g.Weather(weather, time, subject, place, companion):
            text = (
                f"{TIMES[time]} {WEATHERS[weather]}, así que {PERSONS[subject]} no fue "
                f"{contracted_a(PLACES[place])} con {PERSONS[companion]}"
            )
        case g.Wish(subject, modal, verb, thing, place, time):
            text = (
                f"{PERSONS[subject]} {MODALS[modal]} {VERBS[verb][3]} {noun_phrase(thing)} "
                f"en {PLACES[place]} {TIMES[time]}"
            )
    return g.sentence_case(text)
