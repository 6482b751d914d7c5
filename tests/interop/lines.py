"""Lines of multilingual and hostile text. The same seed gives the same lines."""

import html
import random
import unicodedata

WORDS = """a photo of the cat dog sitting on grass, bright red Sunset over MOUNTAINS it's they're we've I'm you'll he'd don't rock'n'roll
1984 3.14 1st x86_64 e-mail C++ #tag @user https://example.com/?a=1&b=2 100% $5 (blurry) [cropped] {P} ... !!! ?! -- — naïve café""".split()
SCRIPTS = {
    "latin": (0x00C0, 0x024F), "ipa": (0x0250, 0x02FF), "greek": (0x0370, 0x03FF), "cyrillic": (0x0400, 0x052F), "armenian": (0x0531, 0x058F),
    "hebrew": (0x05D0, 0x05F4), "arabic": (0x0600, 0x06FF), "syriac": (0x0700, 0x074F), "devanagari": (0x0900, 0x097F),
    "bengali": (0x0980, 0x09FF), "tamil": (0x0B80, 0x0BFF), "thai": (0x0E01, 0x0E5B), "tibetan": (0x0F00, 0x0FFF), "georgian": (0x10A0, 0x10FF),
    "hangul": (0xAC00, 0xD7A3), "ethiopic": (0x1200, 0x137F), "cherokee": (0x13A0, 0x13FF), "khmer": (0x1780, 0x17FF),
    "mongolian": (0x1800, 0x18AA), "vietnamese": (0x1E00, 0x1EFF), "greek extended": (0x1F00, 0x1FFF), "punctuation": (0x2000, 0x206F),
    "superscripts": (0x2070, 0x209F), "currency": (0x20A0, 0x20C0), "letterlike": (0x2100, 0x214F), "numbers": (0x2150, 0x218B),
    "mathematics": (0x2200, 0x22FF), "technical": (0x2300, 0x23FF), "enclosed": (0x2460, 0x24FF), "dingbats": (0x2700, 0x27BF),
    "kana": (0x3040, 0x30FF), "cjk": (0x4E00, 0x9FFF), "compatibility": (0xF900, 0xFAFF), "forms": (0xFB00, 0xFDFF), "width": (0xFF01, 0xFFEE),
    "gothic": (0x10330, 0x1034A), "deseret": (0x10400, 0x1044F), "letters": (0x1D400, 0x1D7FF), "emoji": (0x1F300, 0x1FAFF),
    "cjk b": (0x20000, 0x2A6DF), "tags": (0xE0020, 0xE007F), "private": (0xE000, 0xF8FF),
}
EMOJI = ["👩🏽‍🚀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "❤️‍🔥", "1️⃣", "🏴\U000E0067\U000E0062\U000E0065\U000E006E\U000E0067\U000E007F", "😀", "☺️"]
ZERO_WIDTH = ["\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u200e", "\u200f", "\u202e", "\u061c", "\u180e"]
SPACES = [" ", "  ", "\t", "\u00a0", "\u2003", "\u3000", "\u1680", "\u202f", "\u205f", "\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"]
TYPOGRAPHY = list("“”‘’‚„«»‹›…–—•·´`¨ʼ‛‟ﬀﬁﬂﬃﬄﬅﬆĲĳŉǅǆǇǊǳſKÅΩİıßẞςΣ")
SPECIAL = ["<start_of_text>", "<end_of_text>", "<START_OF_TEXT>", "<End_Of_Text>", "<|endoftext|>", "</w>", "<ſtart_of_text>", "'ſ", "'S", "'LL"]
NAMES = sorted(html.entities.html5)


def letters(draw, count):
    first, last = SCRIPTS[draw.choice(list(SCRIPTS))]
    known = (chr(draw.randint(first, last)) for _ in range(4 * count))
    return "".join([one for one in known if unicodedata.category(one) != "Cn"][:count])


def reference(draw):
    name = draw.choice(NAMES)
    number = draw.choice([draw.randrange(0x250), draw.randrange(0x110000), 0xD800, 0x110000, 0xFFFE, 0x80 + draw.randrange(32)])
    return draw.choice([
        f"&{name}", f"&{name.rstrip(';')}", f"&{name.upper()}", f"&{name.lower()}", f"&{name}x", f"&amp;{name}", f"&#{number};", f"&#{number}",
        f"&#x{number:x};", f"&#X{number:X}", "&", "&;", "&#;", "&nosuch;", "&amp;amp;lt;", "&quot;a&quot;", "&lt;b&gt;", "AT&T", "&#00000065;"])


def mojibake(draw):
    text = draw.choice(["naïve café", "l’humanité", "“quoted”", "日本", "Привет", "schön", "✔ done", "£5 … ok"])
    table = draw.choice(["latin-1", "windows-1252", "windows-1251", "macroman", "cp437"])
    return text.encode().decode(table, errors="replace")


def piece(draw):
    kind = draw.randrange(24)
    if kind < 9:
        return draw.choice(WORDS)
    return [
        lambda: letters(draw, draw.randint(1, 8)),
        lambda: letters(draw, draw.randint(1, 8)),
        lambda: letters(draw, draw.randint(1, 3)),
        lambda: draw.choice(EMOJI),
        lambda: "".join(draw.choice("aeoncuszAEIN") + chr(draw.randint(0x300, 0x36F)) * draw.randint(1, 3) for _ in range(draw.randint(1, 5))),
        lambda: chr(draw.choice([draw.randrange(0x20), 0x7F, draw.randint(0x80, 0x9F), draw.randint(0x206A, 0x206F), 0xFFFC, 0xFFFD])),
        lambda: reference(draw),
        lambda: reference(draw),
        lambda: draw.choice(ZERO_WIDTH).join(draw.choice(WORDS)),
        lambda: draw.choice(SPACES) * draw.randint(1, 3),
        lambda: draw.choice(TYPOGRAPHY) + draw.choice(WORDS) + draw.choice(TYPOGRAPHY),
        lambda: draw.choice(SPECIAL),
        lambda: draw.choice(["\x1b[31m", "\x1b[0m", "\x1b[1;3", "\x1b"]) + draw.choice(WORDS),
        lambda: draw.choice(["<b>", "</i>", "<br/>", "a<b", "<!-- -->"]),
        lambda: "".join(chr(draw.randrange(0x20, 0x3000)) for _ in range(draw.randint(1, 12))),
    ][kind - 9]()


def assigned(text):
    """Without what Unicode has given no meaning yet, and without line feeds, which part the lines of a file."""
    return "".join(one for one in text if unicodedata.category(one) not in ("Cn", "Cs") and one != "\n")


def line(draw):
    kind = draw.randrange(40)
    if kind == 0:
        return draw.choice(["", " ", "\t", "\u3000", "\u200b", "\ufeff"])
    if kind == 1:
        return assigned(letters(draw, draw.randint(20, 120)) * draw.randint(1, 20))
    if kind == 2:
        return draw.choice("aX9é日!_") * draw.randint(50, 900)
    if kind == 3:
        return f"{draw.choice(WORDS)} {mojibake(draw)}"
    between = draw.choice([" ", " ", " ", "", draw.choice(SPACES)])
    return assigned(between.join(piece(draw) for _ in range(draw.randint(1, 14))))


def lines(count, seed=0):
    draw = random.Random(seed)
    return [line(draw) for _ in range(count)]
