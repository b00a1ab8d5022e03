import re
import time
import unicodedata
from pathlib import Path

import pytest

from pipelines import sample_grammar
from pipelines.sample_grammar import (
    Act,
    Arrival,
    Because,
    Both,
    Compare,
    Exist,
    Give,
    Meal,
    Meet,
    Opinion,
    Sentence,
    Thing,
    Trip,
    Weather,
    Wish,
)

LISTED = Path(__file__).parent / "data" / "sample_sentences.txt"
STOPS = {"zho_Hans": "。？", "hin_Deva": "।?"}


def said(code: str, sentence: Sentence) -> str:
    return sample_grammar.language(code).linearise(sentence)


def bought(noun: str, adjective: str, count: int, verb: str = "buy", subject: str = "teacher") -> Act:
    mode = "not" if count == 0 else "statement"
    return Act(mode, subject, verb, Thing(noun, adjective, count), "market", "yesterday")


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    """Every sentence in every language, by id."""
    return {
        code: [said(code, sentence) for sentence in sample_grammar.sentences()] for code in sample_grammar.LANGUAGES
    }


def test_every_id_has_a_sentence_of_its_own_in_every_language(texts: dict[str, list[str]]):
    assert {code: len(set(own)) for code, own in texts.items()} == dict.fromkeys(sample_grammar.LANGUAGES, 25_000)


def test_training_and_heldout_share_no_sentence(texts: dict[str, list[str]]):
    for own in texts.values():
        train = {own[i] for i in sample_grammar.TRAIN_IDS}
        heldout = {own[i] for i in sample_grammar.HELDOUT_IDS}
        assert (len(train), len(heldout), len(train & heldout)) == (24_000, 1_000, 0)


def test_all_eight_languages_are_made_within_ten_seconds():
    sample_grammar.sentences.cache_clear()
    start = time.process_time()
    for sentence in sample_grammar.sentences():
        for code in sample_grammar.LANGUAGES:
            said(code, sentence)
    assert time.process_time() - start < 10


def test_an_id_means_the_same_in_every_process(texts: dict[str, list[str]]):
    assert texts["eng_Latn"][1000] == LISTED.read_text(encoding="utf-8").split("eng_Latn  ")[1].split("\n")[0]


def test_the_listed_sentences_are_what_the_grammar_makes():
    """To list them anew: python -m tests.test_grammar"""
    assert LISTED.read_text(encoding="utf-8") == listing()


def listing() -> str:
    blocks = []
    for i in sample_grammar.TRAIN_IDS[:30]:
        lines = [f"{code}  {sample_grammar.text(i, code)}" for code in sample_grammar.LANGUAGES]
        blocks.append("\n".join([f"id {i}", *lines]))
    return "\n\n".join(blocks) + "\n"


def test_accidents_are_told_of_the_past_only():
    acts = [sentence for sentence in sample_grammar.sentences() if isinstance(sentence, Act)]
    assert {act.tense for act in acts if act.verb in sample_grammar.ACCIDENTS} == {"past"}
    assert {act.tense for act in acts} == {"past", "present", "future"}


@pytest.mark.parametrize("code", sample_grammar.LANGUAGES)
def test_sentences_are_tidy(code: str, texts: dict[str, list[str]]):
    stops = STOPS.get(code, ".?")
    for text in texts[code]:
        assert text == text.strip()
        assert "  " not in text
        assert text[-1] in stops
        assert not text[0].islower()
        assert unicodedata.is_normalized("NFC", text)
        assert (" " not in text) == (code == "zho_Hans")


@pytest.mark.parametrize(
    ("code", "letters"),
    [("hin_Deva", r"[\u0900-\u097f ,?]+"), ("rus_Cyrl", r"[А-Яа-яЁё ,.?]+"), ("zho_Hans", r"[\u4e00-\u9fff，。？]+")],
)
def test_sentences_keep_to_their_script(code: str, letters: str, texts: dict[str, list[str]]):
    assert [text for text in texts[code] if not re.fullmatch(letters, text)] == []


def test_sentences_are_of_everyday_length(texts: dict[str, list[str]]):
    lengths = sorted(len(text.split()) for text in texts["eng_Latn"])
    assert 9 <= lengths[len(lengths) // 2] <= 12
    assert (lengths[0], lengths[-1]) == (9, 20)
    for code in set(sample_grammar.LANGUAGES) - {"zho_Hans"}:
        assert sum(len(text) >= 25 for text in texts[code]) / 25_000 > 0.99


@pytest.mark.parametrize("code", sample_grammar.LANGUAGES)
def test_language_identification_knows_the_sentences(code: str, texts: dict[str, list[str]]):
    heliport = pytest.importorskip("heliport")
    expected = {"zho_Hans": "cmn", "swh_Latn": "swa"}.get(code, code[:3])
    identify = heliport.Identifier().identify
    found = [identify(text, ignore_confidence=True) for text in texts[code][:2_000]]
    assert found.count(expected) / len(found) >= 0.95


def test_a_language_without_grammar_is_an_error():
    with pytest.raises(ValueError, match="grammar: no language 'ita_Latn'. Available: deu_Latn, eng_Latn, .* Choose"):
        sample_grammar.language("ita_Latn")


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        (bought("book", "old", 1), "The teacher bought an old book at the market yesterday."),
        (bought("box", "red", 2), "The teacher bought two red boxes at the market yesterday."),
        (bought("knife", "red", 0), "The teacher did not buy the red knife at the market yesterday."),
        (
            Act("what", "nurse", "choose", None, "city", "every day"),
            "What does the nurse choose in the city every day?",
        ),
        (
            Act("who", "", "hide", Thing("key", "new", 1), "beach", "tomorrow"),
            "Who will hide a new key on the beach tomorrow?",
        ),
        (Compare("car", "red", "heavy", "box", "blue"), "This red car is heavier than that blue box."),
        (
            Meal("doctor", "fish", "tea", "hotel", "tomorrow"),
            "The doctor will eat fish and drink tea at the hotel tomorrow.",
        ),
    ],
)
def test_english_agrees(sentence: Sentence, text: str):
    assert said("eng_Latn", sentence) == text


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        # accusative: einen -en, eine -e, ein -es, plural -e; definite den -en, die -e, das -e
        (bought("table", "red", 1), "Der Lehrer hat gestern auf dem Markt einen roten Tisch gekauft."),
        (bought("lamp", "red", 1), "Der Lehrer hat gestern auf dem Markt eine rote Lampe gekauft."),
        (bought("book", "red", 1), "Der Lehrer hat gestern auf dem Markt ein rotes Buch gekauft."),
        (bought("table", "expensive", 3), "Der Lehrer hat gestern auf dem Markt drei teure Tische gekauft."),
        (bought("table", "red", 0), "Der Lehrer hat den roten Tisch gestern auf dem Markt nicht gekauft."),
        (bought("book", "red", 0), "Der Lehrer hat das rote Buch gestern auf dem Markt nicht gekauft."),
        # the verb comes second after a fronted time and last in a subordinate clause
        (
            Trip("nurse", "city", "tomorrow", "buy", Thing("lamp", "new", 1)),
            "Morgen wird die Krankenschwester in die Stadt gehen, um eine neue Lampe zu kaufen.",
        ),
        (
            Because("girl", "work", "shop", "yesterday", "ill"),
            "Das Mädchen hat gestern im Laden nicht gearbeitet, weil sie krank war.",
        ),
        # dative, weak nouns, separable verbs
        (
            Give("old woman", "give", Thing("plate", "white", 3), "boy", "yesterday"),
            "Gestern hat die alte Frau dem Jungen drei weiße Teller gegeben.",
        ),
        (
            Meet(False, "brother", "help", "neighbour", "station", "yesterday"),
            "Mein Bruder hat dem Nachbarn gestern am Bahnhof nicht geholfen.",
        ),
        (
            Meet(True, "sister", "call", "farmer", "school", "every day"),
            "Meine Schwester ruft den Bauern jeden Tag in der Schule an.",
        ),
        (
            Meet(True, "sister", "wait for", "old man", "station", "tomorrow"),
            "Meine Schwester wird morgen am Bahnhof auf den alten Mann warten.",
        ),
        (Compare("car", "red", "expensive", "hat", "blue"), "Dieses rote Auto ist teurer als jener blaue Hut."),
        (
            Opinion("father", "think", "lamp", "red", "expensive"),
            "Mein Vater denkt, dass diese rote Lampe sehr teuer ist.",
        ),
    ],
)
def test_german_agrees(sentence: Sentence, text: str):
    assert said("deu_Latn", sentence) == text


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        # gender, number and place of the adjective
        (bought("table", "white", 2), "Le professeur a acheté deux tables blanches au marché hier."),
        (bought("newspaper", "old", 2), "Le professeur a acheté deux vieux journaux au marché hier."),
        (bought("lamp", "beautiful", 1), "Le professeur a acheté une belle lampe au marché hier."),
        (bought("boat", "new", 1), "Le professeur a acheté un bateau neuf au marché hier."),
        # elision
        (bought("plate", "red", 0), "Le professeur n'a pas acheté l'assiette rouge au marché hier."),
        (bought("plate", "big", 0), "Le professeur n'a pas acheté la grande assiette au marché hier."),
        (
            Meet(False, "nurse", "wait for", "writer", "school", "every day"),
            "L'infirmière n'attend pas l'écrivain à l'école chaque jour.",
        ),
        (
            Because("sister", "sleep", "hotel", "yesterday", "tired"),
            "Ma sœur n'a pas dormi à l'hôtel hier parce qu'elle était fatiguée.",
        ),
        # contraction, partitive, participles with être
        (
            Give("uncle", "show", Thing("key", "new", 1), "doctor", "tomorrow"),
            "Demain, mon oncle montrera une clé neuve au médecin.",
        ),
        (
            Meal("engineer", "meat", "water", "beach", "every day"),
            "L'ingénieur mange de la viande et boit de l'eau à la plage chaque jour.",
        ),
        (
            Arrival("grandmother", "harbour", "yesterday", "boy", "study"),
            "Quand ma grand-mère est arrivée au port hier, le garçon étudiait.",
        ),
        (
            Compare("car", "green", "cheap", "bed", "white"),
            "Cette voiture verte est meilleur marché que ce lit blanc-là.",
        ),
    ],
)
def test_french_agrees(sentence: Sentence, text: str):
    assert said("fra_Latn", sentence) == text


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        (bought("table", "white", 2), "El profesor compró dos mesas blancas en el mercado ayer."),
        (bought("clock", "blue", 3), "El profesor compró tres relojes azules en el mercado ayer."),
        (bought("umbrella", "expensive", 0), "El profesor no compró el paraguas caro en el mercado ayer."),
        # personal a, contraction, clitic
        (
            Meet(True, "nurse", "invite", "teacher", "school", "yesterday"),
            "La enfermera invitó al profesor en la escuela ayer.",
        ),
        (
            Meet(True, "nurse", "meet", "girl", "school", "every Monday"),
            "La enfermera se encuentra con la niña en la escuela cada lunes.",
        ),
        (
            Give("uncle", "send", Thing("letter", "red", 1), "doctor", "tomorrow"),
            "Mañana mi tío le enviará una carta roja al médico.",
        ),
        # ser and estar, gender of states
        (Compare("car", "red", "dirty", "bed", "white"), "Este coche rojo está más sucio que esa cama blanca."),
        (Opinion("boy", "believe", "lamp", "black", "expensive"), "El niño cree que esta lámpara negra es muy cara."),
        (
            Because("singer", "sleep", "hotel", "last night", "tired"),
            "La cantante no durmió en el hotel anoche porque estaba cansada.",
        ),
        (
            Act("whether", "sister", "lose", Thing("key", "small", 1), "forest", "yesterday"),
            "¿Perdió mi hermana una llave pequeña en el bosque ayer?",
        ),
        (
            Weather("rain", "yesterday", "cook", "harbour", "friend"),
            "Ayer llovió mucho, así que el cocinero no fue al puerto con mi amigo.",
        ),
    ],
)
def test_spanish_agrees(sentence: Sentence, text: str):
    assert said("spa_Latn", sentence) == text


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        # accusative, and what numerals govern
        (bought("book", "red", 1), "Учитель вчера купил на рынке красную книгу."),
        (bought("table", "blue", 1), "Учитель вчера купил на рынке синий стол."),
        (bought("book", "blue", 2), "Учитель вчера купил на рынке две синие книги."),
        (bought("table", "big", 2), "Учитель вчера купил на рынке два больших стола."),
        (bought("chair", "small", 5), "Учитель вчера купил на рынке пять маленьких стульев."),
        (bought("letter", "white", 4, verb="read"), "Учитель вчера прочитал на рынке четыре белых письма."),
        # the past agrees in gender; animate accusative; dative; instrumental with со
        (
            Meet(True, "nurse", "meet", "brother", "hospital", "yesterday"),
            "Медсестра вчера встретила моего брата в больнице.",
        ),
        (
            Meet(False, "sister", "help", "uncle", "garden", "yesterday"),
            "Моя сестра вчера не помогла моему дяде в саду.",
        ),
        (
            Give("father", "give", Thing("key", "heavy", 1), "daughter", "yesterday"),
            "Вчера мой папа дал моей дочери тяжёлый ключ.",
        ),
        (
            Weather("snow", "last week", "singer", "station", "student"),
            "На прошлой неделе шёл сильный снег, поэтому певица не пошла на вокзал со студенткой.",
        ),
        (Compare("mirror", "white", "expensive", "car", "blue"), "Это белое зеркало дороже, чем та синяя машина."),
        (
            Act("whether", "boy", "look for", Thing("hat", "new", 1), "forest", "tomorrow"),
            "Будет ли мальчик завтра искать в лесу новую шляпу?",
        ),
    ],
)
def test_russian_agrees(sentence: Sentence, text: str):
    assert said("rus_Cyrl", sentence) == text


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        # each noun has its measure word; two is 两 before it
        (bought("book", "red", 2), "老师昨天在市场上买了两本红色的书。"),
        (bought("car", "new", 1), "老师昨天在市场上买了一辆新汽车。"),
        (bought("table", "big", 3), "老师昨天在市场上买了三张大桌子。"),
        # no 了 where a past is denied; 都 after 每天; 会 in the future
        (bought("umbrella", "red", 0), "老师昨天没有在市场上买那把红色的雨伞。"),
        (Act("who", "", "wash", Thing("plate", "dirty", 4), "kitchen", "every day"), "谁每天都在厨房里洗四个脏盘子？"),
        (
            Act("whether", "girl", "buy", Thing("hat", "old", 1), "shop", "tomorrow"),
            "女孩明天会在商店里买一顶旧帽子吗？",
        ),
        (Meet(False, "doctor", "call", "mother", "office", "yesterday"), "医生昨天没有在办公室里给我妈妈打电话。"),
        (Meet(True, "doctor", "call", "mother", "office", "yesterday"), "医生昨天在办公室里给我妈妈打了电话。"),
        (Compare("car", "red", "expensive", "bicycle", "blue"), "这辆红色的汽车比那辆蓝色的自行车贵。"),
        (Because("sister", "sleep", "hotel", "yesterday", "sad"), "我姐姐昨天没有在酒店里睡觉，因为她很难过。"),
    ],
)
def test_chinese_has_measure_words_and_aspect(sentence: Sentence, text: str):
    assert said("zho_Hans", sentence) == text


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        # classes 7/8, 9/10, 5/6, 3/4, 11/10: adjective and numeral
        (bought("book", "red", 1), "Mwalimu alinunua kitabu chekundu sokoni jana."),
        (bought("book", "big", 2), "Mwalimu alinunua vitabu vikubwa viwili sokoni jana."),
        (bought("table", "black", 2), "Mwalimu alinunua meza nyeusi mbili sokoni jana."),
        (bought("table", "small", 3), "Mwalimu alinunua meza ndogo tatu sokoni jana."),
        (bought("car", "new", 1), "Mwalimu alinunua gari jipya sokoni jana."),
        (bought("car", "white", 4), "Mwalimu alinunua magari meupe manne sokoni jana."),
        (bought("umbrella", "red", 5), "Mwalimu alinunua miavuli myekundu mitano sokoni jana."),
        (bought("key", "heavy", 1), "Mwalimu alinunua ufunguo mzito sokoni jana."),
        (bought("key", "beautiful", 10), "Mwalimu alinunua funguo nzuri kumi sokoni jana."),
        (bought("chair", "green", 2), "Mwalimu alinunua viti viwili vya kijani sokoni jana."),
        # subject, tense and object prefixes, affirmed and denied
        (bought("shirt", "dirty", 0), "Mwalimu hakununua shati chafu sokoni jana."),
        (Meet(False, "nurse", "help", "cook", "school", "every day"), "Muuguzi hamsaidii mpishi shuleni kila siku."),
        (Meet(True, "nurse", "invite", "cook", "school", "tomorrow"), "Muuguzi atamwalika mpishi shuleni kesho."),
        (
            Meet(False, "boy", "meet", "father", "garden", "tomorrow"),
            "Mvulana hatakutana na baba yangu bustanini kesho.",
        ),
        (
            Give("mother", "give", Thing("cup", "white", 3), "uncle", "yesterday"),
            "Jana mama yangu alimpa mjomba wangu vikombe vyeupe vitatu.",
        ),
        (Compare("knife", "red", "new", "car", "blue"), "Kisu hiki chekundu ni kipya kuliko gari lile la bluu."),
        (
            Arrival("driver", "harbour", "yesterday", "fisherman", "sleep"),
            "Dereva alipofika bandarini jana, mvuvi alikuwa akilala.",
        ),
    ],
)
def test_swahili_has_concord(sentence: Sentence, text: str):
    assert said("swh_Latn", sentence) == text


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        # with ने the verb agrees with the object and the subject is oblique
        (bought("book", "black", 1), "अध्यापक ने कल बाज़ार में एक काली किताब खरीदी।"),
        (bought("book", "black", 2), "अध्यापक ने कल बाज़ार में दो काली किताबें खरीदीं।"),
        (bought("cup", "black", 1, subject="boy"), "लड़के ने कल बाज़ार में एक काला प्याला खरीदा।"),
        (bought("cup", "black", 3, subject="brother"), "मेरे भाई ने कल बाज़ार में तीन काले प्याले खरीदे।"),
        # without it, with the subject; elders are plural
        (
            Act("statement", "boy", "wash", Thing("shirt", "dirty", 1), "garden", "every day"),
            "लड़का हर दिन बग़ीचे में एक गंदी क़मीज़ धोता है।",
        ),
        (
            Act("not", "grandmother", "wash", Thing("shirt", "dirty", 0), "garden", "every day"),
            "मेरी दादी हर दिन बग़ीचे में गंदी क़मीज़ नहीं धोतीं।",
        ),
        (
            Act("statement", "father", "read", Thing("letter", "big", 1), "station", "tomorrow"),
            "मेरे पिता कल स्टेशन पर एक बड़ी चिट्ठी पढ़ेंगे।",
        ),
        (Meet(True, "sister", "meet", "boy", "school", "yesterday"), "मेरी बहन कल स्कूल में लड़के से मिली।"),
        (Meet(False, "girl", "help", "cook", "school", "yesterday"), "लड़की ने कल स्कूल में रसोइये की मदद नहीं की।"),
        # oblique case before a postposition
        (Compare("car", "blue", "expensive", "bag", "green"), "यह नीली गाड़ी उस हरे थैले से ज़्यादा महँगी है।"),
        (
            Weather("rain", "yesterday", "farmer", "market", "friend"),
            "कल बहुत बारिश हुई, इसलिए किसान मेरे दोस्त के साथ बाज़ार नहीं गया।",
        ),
        (
            Because("nurse", "sleep", "hotel", "yesterday", "tired"),
            "नर्स कल होटल में नहीं सोई क्योंकि वह थकी हुई थी।",
        ),
        (
            Wish("student", "want", "buy", Thing("guitar", "cheap", 1), "shop", "next week"),
            "छात्रा अगले हफ़्ते दुकान में एक सस्ता गिटार खरीदना चाहती है।",
        ),
    ],
)
def test_hindi_agrees(sentence: Sentence, text: str):
    assert said("hin_Deva", sentence) == text


BOTH = Both("yesterday", "cook", "sell", Thing("table", "big", 1), "uncle", "buy", Thing("chair", "old", 2))
EXIST = Exist("kitchen", Thing("chair", "red", 3), Thing("table", "black", 2))


@pytest.mark.parametrize(
    ("code", "both", "exist"),
    [
        (
            "eng_Latn",
            "Yesterday the cook sold a big table and my uncle bought two old chairs.",
            "There are three red chairs and two black tables in the kitchen.",
        ),
        (
            "deu_Latn",
            "Gestern hat der Koch einen großen Tisch verkauft, und mein Onkel hat zwei alte Stühle gekauft.",
            "In der Küche gibt es drei rote Stühle und zwei schwarze Tische.",
        ),
        (
            "fra_Latn",
            "Hier, le cuisinier a vendu une grande table et mon oncle a acheté deux vieilles chaises.",
            "Il y a trois chaises rouges et deux tables noires dans la cuisine.",
        ),
        (
            "spa_Latn",
            "Ayer el cocinero vendió una mesa grande y mi tío compró dos sillas viejas.",
            "En la cocina hay tres sillas rojas y dos mesas negras.",
        ),
        (
            "rus_Cyrl",
            "Вчера повар продал большой стол, а мой дядя купил два старых стула.",
            "На кухне есть три красных стула и два чёрных стола.",
        ),
        ("zho_Hans", "昨天厨师卖了一张大桌子，我叔叔买了两把旧椅子。", "厨房里有三把红色的椅子和两张黑色的桌子。"),
        (
            "swh_Latn",
            "Jana mpishi aliuza meza kubwa na mjomba wangu alinunua viti viwili vya zamani.",
            "Jikoni kuna viti vyekundu vitatu na meza nyeusi mbili.",
        ),
        (
            "hin_Deva",
            "कल रसोइये ने एक बड़ी मेज़ बेची और मेरे चाचा ने दो पुरानी कुर्सियाँ खरीदीं।",
            "रसोई में तीन लाल कुर्सियाँ और दो काली मेज़ें हैं।",
        ),
    ],
)
def test_one_meaning_is_said_in_every_language(code: str, both: str, exist: str):
    assert (said(code, BOTH), said(code, EXIST)) == (both, exist)


@pytest.mark.parametrize(
    ("code", "answers"),
    [
        ("eng_Latn", ["My brother.", "Two red books.", "At the market.", "Yesterday."]),
        ("deu_Latn", ["Mein Bruder.", "Zwei rote Bücher.", "Auf dem Markt.", "Gestern."]),
        ("fra_Latn", ["Mon frère.", "Deux livres rouges.", "Au marché.", "Hier."]),
        ("spa_Latn", ["Mi hermano.", "Dos libros rojos.", "En el mercado.", "Ayer."]),
        ("rus_Cyrl", ["Мой брат.", "Две красные книги.", "На рынке.", "Вчера."]),
        ("zho_Hans", ["我哥哥。", "两本红色的书。", "在市场上。", "昨天。"]),
        ("swh_Latn", ["Kaka yangu.", "Vitabu vyekundu viwili.", "Sokoni.", "Jana."]),
        ("hin_Deva", ["मेरे भाई ने।", "दो लाल किताबें।", "बाज़ार में।", "कल।"]),
    ],
)
def test_short_answers_are_right_in_every_language(code: str, answers: list[str]):
    act = bought("book", "red", 2, subject="brother")
    assert [sample_grammar.language(code).answer(act, asked) for asked in sample_grammar.QUESTIONS] == answers


if __name__ == "__main__":
    LISTED.write_text(listing(), encoding="utf-8")
