"""How a prompt asks for a language, in the language of the prompt. Languages without an entry are asked in English.

`{language}` stands where the citation form of a language's name, as CLDR has it, is also the right form: where a
grammar would inflect the name (Czech, Turkish), the wording names a target language instead.
"""

from pipelines import languages

TRANSLATE: dict[str, tuple[str, ...]] = {
    "eng_Latn": (
        "{input}\nTranslate into {language}:",
        "Translate into {language}: {input}",
        "What is this in {language}?\n{input}",
        "Please give the {language} translation of the following text.\n\n{input}",
    ),
    "deu_Latn": (
        "{input}\nÜbersetze auf {language}:",
        "Übersetze auf {language}: {input}",
        "Was heißt das auf {language}?\n{input}",
        "Bitte gib den folgenden Text auf {language} wieder.\n\n{input}",
    ),
    "fra_Latn": (
        "{input}\nTraduis en {language} :",
        "Traduis en {language} : {input}",
        "Comment dit-on cela en {language} ?\n{input}",
        "Merci de traduire le texte suivant en {language}.\n\n{input}",
    ),
    "spa_Latn": (
        "{input}\nTraduce al {language}:",
        "Traduce al {language}: {input}",
        "¿Cómo se dice esto en {language}?\n{input}",
        "Por favor, traduce el siguiente texto al {language}.\n\n{input}",
    ),
    "rus_Cyrl": (
        "{input}\nПереведи на {language}:",
        "Переведи на {language}: {input}",
        "Как перевести это на {language}?\n{input}",
        "Пожалуйста, переведи следующий текст на {language}.\n\n{input}",
    ),
    "zho_Hans": (
        "{input}\n翻译成{language}：",
        "翻译成{language}：{input}",
        "这句话用{language}怎么说？\n{input}",
        "请把下面的内容翻译成{language}。\n\n{input}",
    ),
    "swh_Latn": (
        "{input}\nTafsiri kwa {language}:",
        "Tafsiri kwa {language}: {input}",
        "Unasemaje hivi kwa {language}?\n{input}",
        "Tafadhali tafsiri maandishi yafuatayo kwa {language}.\n\n{input}",
    ),
    "hin_Deva": (
        "{input}\n{language} में अनुवाद करें:",
        "{language} में अनुवाद करें: {input}",
        "इसे {language} में कैसे कहते हैं?\n{input}",
        "कृपया नीचे दिए गए पाठ का {language} में अनुवाद करें।\n\n{input}",
    ),
    "tur_Latn": (
        "{input}\nHedef dile çevir. Hedef dil: {language}",
        "Şunu çevir (hedef dil: {language}): {input}",
        "Bunun çevirisi nedir? Hedef dil: {language}\n{input}",
        "Lütfen aşağıdaki metni çevir. Hedef dil: {language}.\n\n{input}",
    ),
    "ces_Latn": (
        "{input}\nPřelož. Cílový jazyk: {language}",
        "Přelož (cílový jazyk: {language}): {input}",
        "Jak zní překlad? Cílový jazyk: {language}\n{input}",
        "Přelož prosím následující text. Cílový jazyk: {language}.\n\n{input}",
    ),
    "ita_Latn": (
        "{input}\nTraduci in {language}:",
        "Traduci in {language}: {input}",
        "Come si dice in {language}?\n{input}",
        "Per favore, traduci in {language} il testo seguente.\n\n{input}",
    ),
    "por_Latn": (
        "{input}\nTraduza para {language}:",
        "Traduza para {language}: {input}",
        "Como se diz isto em {language}?\n{input}",
        "Por favor, traduza o texto a seguir para {language}.\n\n{input}",
    ),
    "jpn_Jpan": (
        "{input}\n{language}に翻訳してください：",
        "{language}に翻訳してください：{input}",
        "これは{language}で何と言いますか。\n{input}",
        "次の文章を{language}に訳してください。\n\n{input}",
    ),
    "kor_Hang": (
        "{input}\n번역해 주세요. 목표 언어: {language}",
        "번역해 주세요(목표 언어: {language}): {input}",
        "이것을 번역하면 무엇인가요? 목표 언어: {language}\n{input}",
        "다음 글을 번역해 주세요. 목표 언어: {language}.\n\n{input}",
    ),
    "arb_Arab": (
        "{input}\nترجم إلى اللغة {language}:",
        "ترجم إلى اللغة {language}: {input}",
        "كيف يقال هذا باللغة {language}؟\n{input}",
        "من فضلك ترجم النص التالي إلى اللغة {language}.\n\n{input}",
    ),
}
"""The first wording of each language is AFP's `{input} Translate into {tgt_lang}:` (arXiv 2311.08089, its code)."""

EQUALS = "{input} ="
"""AFP's second translation prompt, the same in every language."""

ANSWER_IN: dict[str, str] = {
    "eng_Latn": "Answer in {language}:",
    "deu_Latn": "Antworte auf {language}:",
    "fra_Latn": "Réponds en {language} :",
    "spa_Latn": "Responde en {language}:",
    "rus_Cyrl": "Язык ответа — {language}:",
    "zho_Hans": "请用{language}回答：",
    "swh_Latn": "Jibu kwa {language}:",
    "hin_Deva": "{language} में उत्तर दें:",
    "tur_Latn": "Yanıtın dili: {language}",
    "ces_Latn": "Jazyk odpovědi: {language}",
    "ita_Latn": "Rispondi in {language}:",
    "por_Latn": "Responda em {language}:",
    "jpn_Jpan": "{language}で答えてください：",
    "kor_Hang": "답변 언어: {language}",
    "arb_Arab": "أجب باللغة {language}:",
}
"""AFP's `Answer in {tgt_lang}:` (arXiv 2311.08089, released code)."""

ENGLISH = "eng_Latn"


def translate_wordings(lang: str) -> tuple[str, ...]:
    """Wordings of a translation prompt in `lang`, else in English; the last is AFP's equals sign."""
    return (*TRANSLATE.get(lang, TRANSLATE[ENGLISH]), EQUALS)


def answer_wording(lang: str) -> str:
    """How a question in `lang` says in which language to answer, else the English wording."""
    return ANSWER_IN.get(lang, ANSWER_IN[ENGLISH])


def name_in(lang: str, prompt: str, among: tuple[str, ...] = ()) -> str:
    """The name of the language `lang` in the language `prompt`, in English where `prompt` has no wordings.

    among: the recipe's languages, of which it must be told (`languages.name`).
    """
    return languages.name_in(lang, prompt if prompt in TRANSLATE else ENGLISH, among)
