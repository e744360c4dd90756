"""Units that may stand behind a number: a list, not "any word", because a word may change the number (17 below zero).

The names of one unit share a line, the first is its name; plurals are made by adding s. To have more accepted, add them here.
"""

import re

from vapo.verifiers.arithmetic import SCALES, WORDS, number

_MEASURES = """
cm centimeter centimetre centimetro centimètre 厘米 公分 см
mm millimeter millimetre 毫米 мм
m meter metre metro mètre 米 公尺 м
km kilometer kilometre kilometro kilomètre 千米 公里 км
inch in inches 英寸
foot ft feet 英尺
yard yd
mile mi miles 英里
kg kilo kilogram kilogramme 千克 公斤 кг
g gram gramme 克 г
mg milligram 毫克
pound lb lbs 磅 英镑
ounce oz
ton tonne 吨 т
l liter litre L 升 л
ml milliliter millilitre mL 毫升
gallon gal
quart qt
pint pt
second sec s secs 秒 сек
minute min mins 分 分钟 мин
hour hr h hrs 小时 时 ч
day 天 日
week wk 周 星期
month 月 个月
year yr yrs año 年 岁 歲
degree deg degrees 度
celsius C
fahrenheit F
radian rad radians 弧度
dollar USD dollars buck 美元
cent 美分
euro EUR €
yen JPY 日元
yuan RMB CNY 元 块 人民币
rupee INR Rs rs
penny pence pennies
rouble ruble руб
watt W
volt V
newton N
joule J
hertz Hz
pascal Pa
kelvin
mole mol
acre
hectare ha 公顷
bit 比特
byte
calorie cal kcal
kwh
kw
kj
mpa
kn
ppm
rpm
fps
unit units 单位
"""
_COUNTED = """  # things that are counted; Chinese measure words too
way person people man men woman women child children kid boy girl student adult friend player member employee worker customer guest
passenger teacher parent baby babies visitor guy follower soldier team class classes group family families couple pupil
thing item object piece part set box boxes bag basket bottle cup glass glasses can jar tin carton crate packet package pack bundle
container envelope bucket tray plate bowl pot pan spoon fork knife knives tank barrel case
apple orange banana pear peach peaches grape lemon mango mangoes cherry cherries strawberry strawberries blueberry blueberries
berry berries watermelon potato potatoes tomato tomatoes carrot onion pepper egg cookie cake cupcake pie pizza sandwich sandwiches
brownie muffin donut doughnut candy candies chocolate lollipop cracker chip slice loaf loaves meal burger taco hotdog serving
snack peanut nut drink soda scoop gumball jellybean marshmallow
dog cat puppy puppies kitten bird fish animal horse cow pig sheep goat chicken duck hen rabbit frog turtle snake bee ant bug insect
spider butterfly butterflies crab elephant lion tiger monkey bear mouse mice deer whale shark pet leg wing eye tooth teeth
tree flower rose plant seed leaf leaves petal branch branches bush bushes vegetable fruit
book page word letter sentence chapter story stories song movie film show episode game point goal run lap card toy doll ball balloon
block marble bead sticker stamp coin bill ticket token photo picture painting poster pencil pen crayon marker notebook eraser
magazine newspaper paper sheet question problem answer test exam lesson course grade mark vote trip ride flight visit turn round
car bike bicycle truck bus buses vehicle train plane boat ship wheel tire seat engine
house room apartment building door window wall floor table chair desk bed shelf shelves lamp light brick tile board pole post nail
shirt shoe sock hat dress dresses coat towel sweater necklace bracelet earring ring button stitch stitches
row column layer stack line section step stair level stage spot hole side corner edge face vertex vertices triangle square circle
rectangle polygon diagonal angle cube sphere digit number integer element term solution pair subset permutation arrangement
combination path outcome possibility possibilities case divisor pattern configuration sequence function
coloring tuple triple value
gift present phone computer message email call machine battery batteries tool stick rock stone shell seashell star feather
time shift session interval period event match matches game battle race lap mile kilometer
job task order sale product share dime nickel
次 个 人 本 只 条 张 名 位 种 件 辆 棵 块 支 把 双 组 台 头 匹 朵 页 题 颗 枚 家 间 座 场 套 步 道 层 项 对 株 套 元钱
"""
FILLERS = {
    "per",
    "a",
    "an",
    "each",
    "every",
    "of",
    "the",
    "in",
    "total",
    "altogether",
    "overall",
    "left",
    "remaining",
    "inclusive",
    "more",
}
FILLERS |= {
    "sq",
    "square",
    "cubic",
    "cu",
    "平方",
    "立方",
    "total.",
    "respectively",
    "whole",
    "different",
    "distinct",
    "possible",
    "long",
    "old",
}
FILLERS |= {
    "tall",
    "wide",
    "high",
    "away",
    "only",
    "exactly",
    "approximately",
    "such",
    "valid",
    "ordered",
    "real",
    "positive",
    "red",
    "blue",
    "green",
    "white",
    "black",
}
CURRENCIES = ("dollar", "euro", "pound", "yen", "rupee", "USD", "US", "EUR", "GBP", "INR", "RMB", "CNY", "Rs", "HK")
UNITS: dict[str, str] = {}  # every name -> the unit's name
for _line in _MEASURES.strip().splitlines():
    _first, *_others = _line.split()
    UNITS |= {name: _first for name in (_first, *_others)} | {
        f"{n}s": _first for n in (_first, *_others) if len(n) > 2 and n.isascii()
    }
for _word in _COUNTED.partition("\n")[2].split():
    UNITS |= {_word: _word} | ({f"{_word}s": _word} if _word.isascii() else {})
UNITS |= {"mph": "mile/hour", "kph": "km/hour", "kmh": "km/hour"}
_SHORT = {name for name in UNITS if not (name.isascii() and len(name) == 1)}  # may stand right behind a digit: 17cm, 48元
_PART = re.compile(r" ?([A-Za-z]+|[^\W\d_a-zA-Z]+)\.?|( ?\^ ?\{? ?-?[1-3] ?\}?)| ?(/|\\cdot)|-| ?(\\degree) ?([CF](?![a-zA-Z]))?")
_END = re.compile(r"(?:illion|thousand|hundred|dozen)\b|\d|[}%)\]!]|\\pi\b|(?<=\d)\.")


def split_unit(text: str) -> tuple[str, str]:
    r"""A quantity without its unit, and the unit in one spelling; the unit is empty if there is none, or one that is not listed.

    >>> split_unit("17 cm ^2"), split_unit("36\\pi square centimeters"), split_unit("48平方厘米")
    (('17', 'cm2'), ('36\\pi', 'cm2'), ('48', 'cm2'))
    >>> split_unit("17 feet per second"), split_unit("17 below zero"), split_unit("2m")
    (('17', 'foot/second'), ('17 below zero', ''), ('2m', ''))
    """
    for match in _END.finditer(text):
        tail = text[match.end() :]
        if tail and not tail.isspace() and (unit := _unit(tail)) is not None:
            amount = text[: match.end()].strip()
            if re.fullmatch(r"(?: ?[a-zA-Z](?![a-zA-Z])| ?[\^/{}\d.-])*", tail) and number(amount) is None:
                return text, ""  # \pi d: a variable
            return amount, unit
    return text, ""


def _unit(tail: str) -> str | None:
    """The unit's name, empty for fillers alone ("in total"); None if a word of `tail` is no unit."""
    if re.search(r"[/-] ?$|(?:^| )(?:per|an?) ?$", tail):
        return None  # something is missing
    names, end, over, power = "", 0, False, ""
    while match := _PART.match(tail, end):
        word, raised, sign, degree, scale = match.groups()
        name = None
        if word:
            lower = word if word in UNITS or len(word) == 1 else word.lower()
            if end == 0 and not tail[0].isspace() and lower not in _SHORT and lower[:2] not in ("平方", "立方"):
                return None
            if lower in ("squared", "cubed"):
                names += "?" if not names else "2" if lower == "squared" else "3"
            elif lower in ("平方", "立方", "square", "sq", "cubic", "cu"):
                power = "3" if lower in ("立方", "cubic", "cu") else "2"
                if lower == "square" and not tail[match.end() :].strip():
                    name, power = "square", ""
            elif lower.startswith(("平方", "立方")) and lower[2:] in UNITS:
                name, power = UNITS[lower[2:]], "2" if lower[0] == "平" else "3"
            elif lower in ("per", "a", "an", "each", "every"):
                over = lower == "per" or bool(names)
            elif lower in UNITS and not (lower == "in" and re.match(r" ?(?!per\b)[a-zA-Z]", tail[match.end() :])):  # in each class
                name = UNITS[lower]
            elif lower not in FILLERS and not (names and tail[:end].endswith(" of") and lower not in {*SCALES, *WORDS, "the"}):
                return None  # but "of fabric" after a unit
        elif raised:
            if re.search(r"(?:^|[^a-zA-Z])[a-ln-zA-Z]$", tail[:end]) and "/" not in tail[:end]:
                return None  # s^2, but m^2 and m/s^2
            names += re.sub(r"[^\d-]", "", raised) if names else "?"
        elif sign == r"\cdot" and end == 0:
            return None
        elif sign == "/":
            over = True
        elif degree:
            name = {"C": "celsius", "F": "fahrenheit"}.get(scale, "degree")
        if name is not None:
            names += ("/" if over else " " if names else "") + name + power
            over, power = False, ""
        end = match.end()
    return None if tail[end:].strip(" .") or "?" in names else names
