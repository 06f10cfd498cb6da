"""Words that are units of measurement, whatever their scale: none of them changes a number's value.

SI units with their prefixes and the units accepted beside them (SI brochure, 9th edition, tables 2
to 8), and the customary ones of school books.  Lower case: `kJ` comes as `kj`.
"""

from dars_jax.rewards.equality.latex import word_set

_SYMBOLS = word_set(
    "m g s a k mol cd rad sr hz n pa j w c v f s wb t h lm lx bq gy sv kat l ev da u bar cal wh"
)
_SYMBOL_PREFIXES = ("", "k", "m", "c", "d", "g", "t", "p", "n", "f", "h", "u", "\u03bc", "\u00b5")
_NAMES = word_set(
    "meter metre gram second ampere amp kelvin mole candela radian steradian hertz newton pascal "
    "joule watt coulomb volt farad ohm siemens weber tesla henry lumen lux becquerel gray sievert "
    "katal liter litre electronvolt dalton bar calorie byte bit"
)
_NAME_PREFIXES = ("", "kilo", "mega", "giga", "tera", "centi", "deci", "milli", "micro", "nano",
                  "pico", "femto", "hecto")  # fmt: skip
_OTHERS = word_set(
    "degree deg celsius fahrenheit min minute hr hour d day week month yr year decade century "
    "centuries in inch ft foot feet yd yard mi mile mph kmh kph knot furlong fathom acre hectare "
    "ha oz ounce lb pound ton tonne stone pt pint qt quart gal gallon cup tsp tbsp teaspoon "
    "tablespoon dyn dyne erg gauss oersted angstrom au ly pc kpc mpc parsec lightyear arcsec "
    "arcmin arcsecond arcminute atm atmosphere torr mmhg psi hp horsepower btu kcal amu rpm ppm "
    "molar db decibel dollar cent usd euro eur gbp yuan rmb rupee yen won peso franc mark pence "
    "penny pennies am pm unit"
)

UNITS = frozenset(
    {p + s for p in _SYMBOL_PREFIXES for s in _SYMBOLS}
    | {p + name + end for p in _NAME_PREFIXES for name in _NAMES for end in ("", "s")}
    | {name + end for name in _OTHERS for end in ("", "s", "es")}
)
