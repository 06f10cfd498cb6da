"""The closed lists of words that may stand beside a value without changing it.

A word that is in none of them makes an answer unreadable: `5 squared`, `5 dozen` and `5 sometimes`
are not 5.  Units: the BIPM's brochure on the SI (base, derived, prefixes, accepted beside it), and
the customary units and currencies of school mathematics.  COUNTED: what the problems of MATH and
GSM8K count, that is the nouns that stand there after a number or after "how many".
"""


def word_set(text: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(text.split())


# name: spellings.  Capitals matter in symbols only: 5 mW is not 5 MW.
_UNITS = {
    "m": "meter meters metre metres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "Å": "Å angstrom angstroms",
    "ly": "lightyear lightyears",
    "pc": "parsec parsecs",
    "AU": "AU",
    "g": "gram grams",
    "t": "ton tons tonne tonnes",
    "lb": "lb lbs pounds",
    "oz": "oz ounce ounces",
    "s": "sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years",
    "L": "l liter liters litre litres",
    "gal": "gal gallon gallons",
    "qt": "quart quarts",
    "pt": "pint pints",
    "cup": "cup cups",
    "tbsp": "tablespoon tablespoons",
    "tsp": "teaspoon teaspoons",
    "acre": "acre acres",
    "ha": "hectare hectares",
    "K": "kelvin kelvins",
    "mol": "mol mole moles",
    "N": "newton newtons",
    "J": "joule joules",
    "W": "watt watts",
    "V": "volt volts",
    "A": "ampere amperes amp amps",
    "C": "coulomb coulombs",
    "F": "farad farads",
    "T": "tesla teslas",
    "Hz": "hertz",
    "Pa": "pascal pascals",
    "Ω": "ohm ohms",
    "erg": "erg ergs",
    "dyn": "dyne dynes",
    "eV": "electronvolt electronvolts",
    "cal": "calorie calories",
    "bar": "bar bars",
    "atm": "atm atmosphere atmospheres",
    "dollar": "dollar dollars USD usd",
    "cent": "cent cents",
    "euro": "euro euros EUR eur",
    "pound": "pound GBP",
    "yuan": "yuan rmb RMB",
    "rupee": "rupee rupees rs Rs",
    "degree": "degree degrees deg degs",
    "radian": "radian radians rad rads",
    "arcmin": "arcmin arcminute arcminutes",
    "arcsec": "arcsec arcsecond arcseconds",
    "am": "am AM",
    "pm": "pm PM",
    "mph": "mph",
    "rpm": "rpm",
    "unit": "unit units",
    "square": "squares",
    "cube": "cubes",
    "celsius": "celsius",
    "fahrenheit": "fahrenheit",
}
# SI symbols that take a prefix; alone they are single capitals or small letters.
_SYMBOLS = word_set("m g s A K N J W V C F T H L Ω Hz Pa eV mol cal bar pc Wb rad")
_PREFIXES = word_set("n µ m c k M G T p d h f")
_ODD = word_set("pm am cd min dm hm ft Tm TA")  # prefix + symbol that spell something else
_PREFIX_NAMES = {"kilo": "k", "milli": "m", "centi": "c", "micro": "µ", "nano": "n", "mega": "M",
                 "giga": "G", "deci": "d"}  # fmt: skip

UNITS = {alias: unit for unit, names in _UNITS.items() for alias in names.split()}
UNITS |= {symbol: symbol for symbol in _SYMBOLS | word_set("h kg sr lm lx dB D")}
UNITS |= {p + s: p + s for p in _PREFIXES for s in _SYMBOLS if p + s not in _ODD | set(UNITS)}
UNITS |= {
    prefix + name: short + unit
    for prefix, short in _PREFIX_NAMES.items()
    for unit in ("m", "g", "L", "s", "W", "J", "V", "Pa", "Hz", "N", "A", "cal")
    for name in _UNITS[unit].split()
    if len(name) > 3
}
ONE_LETTER_UNITS = frozenset(name for name in UNITS if len(name) == 1)
CURRENCIES = frozenset(["dollar", "euro", "pound", "yuan", "rupee", "cent"])
POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
# After a unit only: meters squared, but not 5 squared.
POWERS_AFTER = {"squared": "^2", "cubed": "^3"}
MULTIPLES = {
    "hundred": "2", "thousand": "3", "million": "6", "billion": "9", "trillion": "12"
}  # fmt: skip

COUNTED = word_set(
    "people person students student men women man woman children child kids kid boys boy girls "
    "girl adults teachers teacher workers employees members players friends customers guests "
    "passengers visitors parents patients voters families teams pupils persons individuals "
    "birds cows dogs dog cats cat horses sheep goats pigs chickens chicken ducks hens frogs fish "
    "turtles snakes rabbits rabbit puppies kittens animals lions elephants ants bees spiders mice "
    "apples apple oranges bananas lemons peaches pears mangoes grapes strawberries tomatoes "
    "carrots potatoes eggs cookies cookie cupcakes cakes pies pizzas slices donuts candies "
    "sandwiches muffins brownies pancakes jellybeans lollipops loaves coconuts nuts vegetables "
    "fruits books book pages page pencils pens notebooks papers sheets cards card stamps stickers "
    "coins coin pennies nickels dimes quarters bills tickets marbles marble balls ball balloons "
    "toys dolls games blocks bricks beads buttons boxes box bags cans bottles jars baskets packs "
    "cartons crates containers plates bowls glasses spoons candles shirts shoes hats socks dresses "
    "flowers roses trees tree plants seeds leaves petals cars car bikes bicycles trucks buses "
    "vehicles wheels tires houses rooms doors windows tables chairs seats floors shelves tiles "
    "days nights lessons classes problems questions points point votes games matches goals laps "
    "trips miles steps stairs rows columns words letters digits digit numbers integers values "
    "terms factors divisors multiples solutions roots zeros zeroes triples pairs triangles "
    "rectangles circles lines edges vertices faces diagonals sides cubes squares intersections "
    "paths ways way combinations arrangements permutations subsets outcomes handshakes moves "
    "games rounds throws pieces items objects parts groups sets cases ropes sticks matchsticks "
    "songs photos pictures episodes movies letters messages calls rolls tulips"
)

# `Area = 5` names what is 5; `not x = 5` does not.
HEDGES = word_set(
    "not no never none neither nor false wrong incorrect if unless except without either or maybe "
    "perhaps possibly probably about approximately approx around nearly almost guess less more "
    "fewer greater than least most over under above below between isn cannot unknown"
)

# "for all real numbers x", "where k is any integer": what may surround a letter and its domain.
QUALIFIER_STARTS = word_set("for where with forall when such given")
QUALIFIER_WORDS = word_set(
    "for where with forall all any every each some is are be a an the arbitrary constant "
    "parameter number numbers that given such being can in"
)
DOMAINS = {
    "real": "ℝ", "reals": "ℝ", "integer": "ℤ", "integers": "ℤ", "rational": "ℚ", "complex": "ℂ",
    "natural": "ℕ", "positive": "positive", "nonnegative": "nonnegative", "nonzero": "nonzero",
    "odd": "odd", "even": "even", "prime": "prime", "negative": "negative",
}  # fmt: skip
