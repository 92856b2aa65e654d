"""The words that pretraining may use; those of the example suites are absent on purpose."""

from __future__ import annotations

import random
from collections.abc import Sequence

NAMES = (
    "Anna Ben Carla David Eva Frank Gina Henry Ines Jack Kira Leo Maria Nick Olga Paul Rosa Sam "
    "Tina Victor Wendy Yusuf Zoe Alice Bob Clara Dan Emma Felix Grace Hugo Ivy John Kate Liam Mia "
    "Noah Oscar Petra Ruth Simon Tom Uma Vera Will Lena Max Nora Omar Peter"
).split()
CITIES = (
    "Oslo Rome Paris London Berlin Madrid Lisbon Vienna Prague Dublin Athens Cairo Delhi Tokyo "
    "Seoul Lima Quito Boston Denver Miami Austin Dallas Geneva Zurich Milan Turin Lyon Nice Porto "
    "Ghent Bergen Malmo Turku Riga Vilnius Warsaw Krakow Sofia Zagreb Split"
).split()
COLORS = "red blue green yellow black white brown pink orange purple grey gold silver".split()
ANIMALS = (
    "cat dog horse cow sheep goat pig duck hen fox wolf bear lion tiger mouse rat frog fish bird "
    "snake whale shark eagle owl crow"
).split()
JOBS = ("doctor nurse teacher farmer baker driver pilot singer painter writer lawyer judge").split()
NOUNS = (
    "apple pear plum lemon grape cherry bread cheese butter milk tea coffee sugar salt rice soup "
    "cake pie egg honey table chair lamp desk bed door window wall floor roof garden tree flower "
    "grass river lake sea hill road bridge street house school shop market museum hotel train bus "
    "car bike boat plane ship map bag box book pen paper letter phone watch ring coat hat shoe "
    "shirt dress sock glove scarf belt knife fork spoon plate cup glass bottle pot pan stove fire "
    "water stone wood metal sand snow rain wind storm cloud sun moon star sky winter summer spring "
    "music song dance film play game ball team coach student king queen child friend brother "
    "sister mother father uncle aunt cousin guest key chain rope wheel engine motor pump pipe tank "
    "cable screen printer camera radio sensor robot drone battery filter valve bolt nail screw "
    "hammer saw drill brush paint glue tape mirror carpet curtain pillow blanket towel soap candle "
    "basket bucket ladder tent fence gate barn field forest desert island beach cave valley "
    "mountain"
).split()
# Those of the nouns that a shop sells, for the suites: no list of pretraining.
GOODS = (
    "lamp stove pump tank printer radio camera robot drone battery filter valve watch phone screen motor "
    "engine bike pan mirror fence gate door window bottle chair desk table bed box bag key pen pot fork "
    "knife spoon plate cup glass chain rope wheel pipe cable bolt nail screw hammer saw drill brush paint "
    "glue tape carpet curtain pillow blanket towel soap candle basket bucket ladder tent hat coat shoe"
).split()
ADJECTIVES = (
    "big small old new long short hot cold dry wet soft hard fast slow light dark heavy clean "
    "dirty full empty rich poor young quiet loud sharp smooth round flat wide narrow deep open "
    "closed ready late early"
).split()
GENERAL = (
    "problem issue question email address change wrong missing waiting soon tomorrow week month "
    "service company message answer example text number happy sad meeting lunch report project "
    "task budget sales price total amount size weight height age country language person people "
    "family work job office home world time year hour minute second event party gift author title "
    "chapter page word sentence list row column file folder code data test model rule garage "
    "kitchen library theatre concert picnic holiday visit walk lesson class exam grade prize"
).split()
LABELS = (
    "alpha beta gamma delta sigma omega north south east west upper lower inner outer left right "
    "first second third mid top basic extra prime core edge night day sport food health nature art "
    "science tools fashion legal media space pets history urban rural common rare safe risky yes "
    "no maybe accept reject keep drop group zone type sales staff press plain major minor A B C D "
    "E F X Y Z"
).split()
FIELDS = (
    "name city color kind group level code number place person item topic label type class area "
    "zone grade status rank tag section unit sector theme subject category team style mode size "
    "source target owner date year id ref key value note result answer part side role"
).split()
POSITIVE = (
    "wonderful great excellent lovely fantastic amazing delightful superb pleasant brilliant perfect charming"
).split()
NEGATIVE = ("terrible awful horrible bad disgusting dreadful boring poor nasty disappointing ugly annoying").split()
MONTHS = ("January February March April May June July August September October November December").split()
CONTENT = sorted({*NOUNS, *ANIMALS, *COLORS, *ADJECTIVES, *GENERAL})

# These get a token of their own *with* the space before them; every content word keeps one
# spelling after a space, a quote or a line start, so that copying it is plain induction.
SPACED = list(
    dict.fromkeys(
        (
            "the is a in to of and for with my was it on or as an are at has if I this that there "
            'you please from about lives does " {" -> = + - | What Where Who # not by be need want '
            "have can look check again keys JSON Reply Set else otherwise number text name city "
            "person place case code ref no item did work asked saw one but we he she they will "
            "would could should been so really very quite says The It My There likes works more "
            "than me your our their because when while after before do out up down all any some "
            "Which Is help write here just got still now also only get am"
        ).split()
    )
)

_ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr pl pr sh sk sl sp st tr ch th qu".split()
_VOWELS = "a e i o u a e i o ai ea ee oo ou y".split()
_CODAS = ["", "", "", *"n r s l t m nd ck ng st ll x p".split()]
_ENDINGS = ("ing er ed ment age ice ty ly ion al ent ery or est able ure ish ock ow ight ip ance ive ful").split()


def pseudo_word(rng: random.Random) -> str:
    """A pronounceable word that means nothing: it can only be copied, never guessed."""
    syllables = rng.choice([1, 1, 2, 2, 2, 3])
    word = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))
    return word + rng.choice(_ENDINGS) if syllables < 3 and rng.random() < 0.4 else word


def pick(rng: random.Random, count: int, pool: Sequence[str] = CONTENT, pseudo: float = 0.3) -> list[str]:
    """Distinct words from `pool`, each with probability `pseudo` replaced by a made-up one."""
    words: dict[str, None] = {}
    while len(words) < count:
        words[pseudo_word(rng) if rng.random() < pseudo else rng.choice(pool)] = None
    return list(words)


def digits(rng: random.Random, least: int = 3, most: int = 5) -> str:
    """A number as text, leading zeros allowed."""
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(least, most)))
