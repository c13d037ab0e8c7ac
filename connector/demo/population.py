"""A synthetic population whose registers agree, because one life course per person stands behind all of them.

Nobody here exists: every hetu has an individual number of 900-999, a range never issued to a person, and
every telephone number is too short to reach a subscriber. The rates are chosen to make a lively
demonstration with many young people out of school; they say nothing about Helsinki.

The same seed and size give the same population: no clock, no global randomness, no order of a set.
"""

from __future__ import annotations

import calendar
import math
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from random import Random
from typing import Literal, NamedTuple, TypeVar

from connector.demo import DEFAULT_PERSONS, DEFAULT_SEED

_T = TypeVar("_T")

Sex = Literal["F", "M"]
Activity = Literal["working", "studying", "unemployed", "sick", "rehabilitation", "outside"]
SupportNeed = Literal["none", "low", "medium", "high"]
Service = Literal["guidance", "work_trial", "training", "rehabilitation", "none"]
Benefit = Literal[
    "labour_market_subsidy",
    "basic_allowance",
    "sickness_allowance",
    "rehabilitation_allowance",
    "housing_allowance",
]
LeaverStatus = Literal["outside", "working", "studying", "unknown"]
ConsentState = Literal["given", "refused", "withdrawn"]


MONTHS: tuple[date, ...] = (date(2025, 11, 1), date(2025, 12, 1), *(date(2026, m, 1) for m in range(1, 11)))
"""The twelve months the registers cover, as first days, oldest first."""

LATEST_MONTH = MONTHS[-1]

REFERENCE_DATE = date(2026, 10, 31)
"""Ages are counted on this day."""

AS_OF = "2026-11-01T00:00:00Z"
"""The instant at which a consent counts as valid or not; every consent event is older."""


class Area(NamedTuple):
    """A postal area. `weight` is its relative size; `hardship` shifts the strain of those who live there."""

    postal_code: str
    name: str
    weight: float
    hardship: float


_AREAS = """
00100 Keskusta 9 -.4|00120 Punavuori 4 -.5|00130 Kaartinkaupunki 1 -.7|00140 Kaivopuisto 4 -.7
00150 Eira 5 -.6|00160 Katajanokka 3 -.6|00170 Kruununhaka 4 -.5|00180 Kamppi 8 -.2
00190 Suomenlinna .5 -.3|00200 Lauttasaari 9 -.6|00210 Vattuniemi 7 -.5|00220 Jätkäsaari 9 -.2
00230 Ilmala 1 0|00240 Länsi-Pasila 5 .1|00250 Taka-Töölö 6 -.3|00260 Keski-Töölö 3 -.3
00270 Meilahti 6 -.3|00280 Ruskeasuo 5 -.2|00300 Pikku Huopalahti 2 0|00310 Kivihaka 1 -.2
00320 Etelä-Haaga 3 -.1|00330 Munkkiniemi 2 -.8|00340 Kuusisaari .4 -.9|00350 Munkkivuori 2 -.3
00360 Pajamäki .9 .1|00370 Reimarla 2 .2|00380 Pitäjänmäki 2 .1|00390 Konala 2 .4
00400 Pohjois-Haaga 8 .1|00410 Malminkartano 6 .7|00420 Kannelmäki 9 .6|00430 Maununneva 2 -.1
00440 Lassila 3 .4|00500 Sörnäinen 8 .1|00510 Alppila 9 .2|00520 Itä-Pasila 6 .3
00530 Kallio 12 .1|00540 Kalasatama 6 -.1|00550 Vallila 8 .1|00560 Toukola 6 0
00570 Kulosaari 3 -.6|00580 Verkkosaari 1 0|00590 Kaitalahti .5 -.5|00600 Koskela 3 .1
00610 Käpylä 6 0|00620 Metsälä 1 -.1|00630 Maunula 5 .5|00640 Oulunkylä 7 .1
00650 Veräjämäki 2 -.3|00660 Länsi-Pakila 4 -.5|00670 Paloheinä 4 -.5|00680 Itä-Pakila 2 -.5
00690 Torpparinmäki 1 -.2|00700 Malmi 8 .4|00710 Pihlajamäki 7 .7|00720 Pukinmäki 5 .4
00730 Tapanila 4 -.1|00740 Siltamäki 5 .3|00750 Puistola 5 .1|00760 Suurmetsä 3 .3
00770 Jakomäki 4 1.1|00780 Tapaninvainio 3 .1|00790 Viikki 7 .1|00800 Länsi-Herttoniemi 6 .2
00810 Herttoniemi 7 0|00820 Roihuvuori 5 .4|00830 Tammisalo 2 -.6|00840 Laajasalo 6 .1
00850 Jollas 3 -.3|00870 Etelä-Laajasalo 3 .1|00890 Östersundom .4 -.2|00900 Puotinharju 5 .6
00910 Puotila 4 .4|00920 Myllypuro 8 .6|00930 Itäkeskus 5 .6|00940 Kontula 12 .9
00950 Vartioharju 4 .2|00960 Pohjois-Vuosaari 7 .5|00970 Mellunmäki 6 .8|00980 Etelä-Vuosaari 11 .6
00990 Aurinkolahti 4 -.1
"""


def _areas() -> Iterator[Area]:
    for cell in _AREAS.replace("\n", "|").strip("|").split("|"):
        code, rest = cell.split(" ", 1)
        name, weight, hardship = rest.rsplit(" ", 2)
        yield Area(code, name, float(weight), float(hardship))


AREAS: tuple[Area, ...] = tuple(_areas())


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FEMALE_NAMES = _words("""
    Aino Anna Anni Anu Eeva Elina Ella Emilia Emma Enni Essi Eveliina Hanna Heidi Helena Helmi Henna
    Iida Iina Inka Jenna Johanna Jonna Kaisa Katja Kerttu Kirsi Laura Leena Lotta Maija Mari Marja Meri
    Mervi Minna Mira Nea Niina Noora Oona Outi Päivi Riikka Roosa Saara Sanna Sari Satu Siiri Suvi Tiina
    Tuuli Ulla Veera Venla Viivi
""")
_MALE_NAMES = _words("""
    Aaro Aki Aleksi Antti Arttu Ari Atte Eero Eetu Elias Erkki Esa Hannu Harri Heikki Henri Ilkka Ilmari
    Janne Jari Jere Jesse Joni Jouni Juha Juho Jukka Jussi Kalle Kari Kimmo Lasse Lauri Markus Marko
    Matti Miika Mika Mikko Niko Olli Onni Oskari Otto Pasi Pekka Petri Rasmus Sami Samu Santeri Seppo
    Tapio Teemu Timo Toni Tuomas Ville
""")
_FAMILY_NAMES = _words("""
    Aaltonen Ahonen Anttila Eskola Haapala Hakala Harju Heikkilä Heinonen Hietala Hiltunen Honkanen
    Huttunen Hyvönen Hänninen Jokinen Jääskeläinen Kallio Karjalainen Karppinen Kauppinen Kemppainen
    Kettunen Kinnunen Koivisto Kokkonen Korhonen Koskinen Kukkonen Kurki Laakso Lahtinen Laine Lehtonen
    Leppänen Lindroos Manninen Mattila Moilanen Mustonen Mäkelä Mäkinen Niemi Nieminen Nurmi Ojala
    Oksanen Pesonen Pitkänen Pulkkinen Rantanen Rautio Räsänen Saarinen Salminen Salonen Savolainen
    Seppälä Sirola Tuominen Turunen Vainio Virtanen Väisänen Ylitalo
""")
# Drawn apart, so that a Swedish first name mostly meets a Swedish family name.
_FEMALE_NAMES_SV = _words("""
    Agneta Annika Astrid Benita Carola Elsa Ingrid Linnéa Maj-Britt Sofia Ulrika Åsa
""")
_MALE_NAMES_SV = _words("""
    Anders Axel Björn Carl-Johan Fredrik Gustav Kaj Kristoffer Oscar Ragnar Stefan Åke
""")
_FAMILY_NAMES_SV = _words("""
    Ahlfors Backman Björklund Blomqvist Enberg Fagerström Forsblom Granholm Gustafsson Holmberg Lindholm
    Nyström Sandvik Stenberg Söderlund Wikström Åström Öhman
""")

_VOCATIONAL_SCHOOLS = (
    "Kuunsillan ammattiopisto",
    "Tuulenkylän ammattiopisto",
    "Kaisloveden ammattiopisto",
    "Rautaportin ammattiopisto",
)
_GENERAL_SCHOOLS = ("Lumikellon lukio", "Pihlajanselän lukio", "Poutapilven lukio")
_VOCATIONAL_SCHOOL_SV = "Yrkesinstitutet Månbron"
_GENERAL_SCHOOL_SV = "Snöklockans gymnasium"
_GENERAL_PROGRAMME = "General upper secondary"
_PROGRAMMES: dict[str, tuple[str, ...]] = {  # programme → ISCO-like codes of the work it leads to
    _GENERAL_PROGRAMME: ("5223", "4221", "9112", "9412"),
    "Business": ("5223", "4110", "3322"),
    "Cleaning and property services": ("9112", "5153"),
    "Construction": ("7115", "7131", "9313"),
    "Electrical and automation": ("7411", "7412", "8212"),
    "Hair and beauty": ("5141", "5142"),
    "Health and social care": ("5321", "5311", "5322"),
    "Information and communications technology": ("3512", "3514", "2512"),
    "Logistics": ("4321", "8332", "9333"),
    "Media and visual expression": ("2166", "3521", "3431"),
    "Restaurant and catering": ("5120", "5131", "9412"),
    "Vehicle technology": ("7231", "8322"),
}


@dataclass(frozen=True, slots=True)
class Education:
    """The upper secondary path. `left` means without a degree; `ended_on` is None while still enrolled."""

    school: str
    programme: str
    outcome: Literal["enrolled", "graduated", "left"]
    ended_on: date | None


@dataclass(frozen=True, slots=True)
class Person:
    """One person with the latent life course that no register sees whole.

    strain: what life weighs, in standard deviations around the city's average of 0; higher is harder.
    work_ability_pct: 0-100 share of full ability to work, as a doctor would find it in an average month.
    support_need: need of support from employment services, whether or not the person is a client.
    activities: what the person mainly did in each of MONTHS; "unemployed" means registered as a jobseeker.
    registered_months_before: months as a registered jobseeker up to the first of MONTHS.
    """

    hetu: str
    first_name: str
    last_name: str
    sex: Sex
    born: date
    postal_code: str
    phone: str
    strain: float
    work_ability_pct: int
    support_need: SupportNeed
    education: Education
    activities: tuple[Activity, ...]
    registered_months_before: int

    @property
    def name(self) -> str:
        """First and last name, as every register writes it."""
        return f"{self.first_name} {self.last_name}"


@dataclass(frozen=True, slots=True)
class Client:
    """A row of employment.clients: a person who is or was a client within MONTHS; `hetu` is the key.

    unemployed_months: months as an unemployed jobseeker since `registered_on`, up to LATEST_MONTH.
    """

    hetu: str
    name: str
    birth_year: int
    postal_code: str
    registered_on: date
    unemployed_months: int
    occupation_code: str
    service: Service
    support_need: SupportNeed


@dataclass(frozen=True, slots=True)
class BenefitMonth:
    """A row of kela.benefits: the one benefit a person received in one month; (`hetu`, `month`) is the key.

    sick_days: days of incapacity in that month, 0-26. work_capacity_pct: 0-100, None when never assessed.
    """

    hetu: str
    name: str
    postal_code: str
    birth_year: int
    sex: Sex
    benefit: Benefit
    month: date
    sick_days: int
    work_capacity_pct: int | None


@dataclass(frozen=True, slots=True)
class LeaverMonth:
    """A row of school.leavers: what the school knew of a leaver in one month; (`hetu`, `month`) is the key.

    absence_days: 0-22 school days of the month without attendance at anything agreed with the school.
    """

    hetu: str
    name: str
    phone: str
    postal_code: str
    school: str
    programme: str
    left_on: date
    month: date
    status: LeaverStatus
    absence_days: int


@dataclass(frozen=True, slots=True)
class Consent:
    """The current record of one person's answer to one controller; no record means never asked.

    Valid in `given_at` <= t < `valid_until`, and only in state "given". Both are UTC, `2026-05-04T09:30:00Z`,
    and so compare as text. A refusal has the instant of the answer in both, a withdrawal ends at the
    instant of withdrawing: neither interval lets anybody through who forgets to look at the state.
    """

    hetu: str
    controller: str
    purpose: str
    recipient: str
    state: ConsentState
    given_at: str
    valid_until: str

    def valid_at(self, instant: str) -> bool:
        """Whether data may move on this consent at `instant` (UTC, same form as `given_at`)."""
        return self.state == "given" and self.given_at <= instant < self.valid_until


@dataclass(frozen=True, slots=True)
class Population:
    """Everybody and every register. `persons`, `clients` and consents are in order of hetu; `benefits` and
    `leavers` in order of month, then hetu."""

    seed: int
    persons: tuple[Person, ...]
    clients: tuple[Client, ...]
    benefits: tuple[BenefitMonth, ...]
    leavers: tuple[LeaverMonth, ...]
    school_consents: tuple[Consent, ...]
    kela_consents: tuple[Consent, ...]


def generate(seed: int = DEFAULT_SEED, persons: int = DEFAULT_PERSONS) -> Population:
    """Make a population of `persons` people and the registers that know some of them."""
    people = tuple(sorted(_people(seed, persons), key=lambda person: person.hetu))
    clients = tuple(_clients(Random(f"{seed}/employment"), people))
    benefits = tuple(_benefits(Random(f"{seed}/kela"), people))
    leavers = tuple(_leavers(Random(f"{seed}/school"), people))
    return Population(
        seed=seed,
        persons=people,
        clients=clients,
        benefits=benefits,
        leavers=leavers,
        school_consents=tuple(_school_consents(Random(f"{seed}/school-consent"), people)),
        kela_consents=tuple(_kela_consents(Random(f"{seed}/kela-consent"), clients, benefits)),
    )


def _between(rng: Random, lowest: int, highest: int) -> int:
    """An integer, both ends included; quicker than randint and, on ranges this small, as even."""
    return lowest + int(rng.random() * (highest - lowest + 1))


def _one(rng: Random, options: Sequence[_T]) -> _T:
    return options[int(rng.random() * len(options))]


def _weighted(rng: Random, options: Sequence[_T], cumulated: Sequence[float]) -> _T:
    return options[bisect(cumulated, rng.random() * cumulated[-1], 0, len(cumulated) - 1)]


# People: who they are. Each concern draws from its own stream: tuning one register leaves the others alone.

_SHARE_16_TO_19 = 0.19
_SHARE_16_TO_29 = 0.50
_SWEDISH_SHARE = 0.06
_RECENT_MOVER_SHARE = 0.03

CHECK_CHARACTERS = "0123456789ABCDEFHJKLMNPRSTUVWXY"
_SIGNS_1900 = "-YXWVU"  # the first is the old sign, the others came into use in 2023
_SIGNS_2000 = "ABCDEF"


class _HetuIssuer:
    """Hands out artificial hetus, each once: individual number 900-999, odd for men, even for women."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._issued: set[str] = set()
        self._last: dict[tuple[date, Sex], int] = {}

    def issue(self, born: date, sex: Sex, recent: bool) -> str:
        """`recent`: issued since 2023, hence possibly with a newer century sign."""
        signs = _SIGNS_1900 if born.year < 2000 else _SIGNS_2000
        sign = _one(self._rng, signs[1:]) if recent else signs[0]
        number = 900 + 2 * _between(self._rng, 0, 49) + (sex == "M")
        # A newer sign lets a number be used a second time on one day of birth. Do so whenever possible:
        # whoever drops the sign when joining should find two people in one.
        if recent:
            number = self._last.get((born, sex), number)
        day = f"{born.day:02}{born.month:02}{born.year % 100:02}"  # strftime is several times slower
        for _ in range(50):
            hetu = f"{day}{sign}{number}{CHECK_CHARACTERS[int(day + str(number)) % 31]}"
            if hetu not in self._issued:
                self._issued.add(hetu)
                self._last[born, sex] = number
                return hetu
            number = 900 + (number - 898) % 100
        raise ValueError(f"no artificial hetu is left for {born} and {sex}; ask for fewer persons")


def _people(seed: int, count: int) -> Iterator[Person]:
    rng, life = Random(f"{seed}/people"), Random(f"{seed}/life")
    issuer = _HetuIssuer(rng)
    areas = rng.choices(AREAS, [area.weight for area in AREAS], k=count)
    phones = rng.sample(range(100_000), count)
    for area, phone in zip(areas, phones, strict=True):
        born = _birth_date(rng)
        sex: Sex = "F" if rng.random() < 0.5 else "M"
        swedish = rng.random() < _SWEDISH_SHARE
        first_name, last_name = _name(rng, sex, swedish)
        hetu = issuer.issue(born, sex, rng.random() < _RECENT_MOVER_SHARE)
        strain = life.gauss(0.5 * area.hardship, 1.0)
        age = _age(born)
        education = _education(life, born, age, strain, swedish)
        ability = _work_ability(life, age, strain)
        activities = _activities(life, age, strain, ability, education)
        before = _registered_months_before(life, born, strain, education, activities)
        yield Person(
            hetu=hetu,
            first_name=first_name,
            last_name=last_name,
            sex=sex,
            born=born,
            postal_code=area.postal_code,
            # Five digits after the operator's prefix: no subscriber has so short a number.
            phone=f"+358 40 {phone:05d}",
            strain=strain,
            work_ability_pct=ability,
            support_need=_support_need(life, strain, ability, activities, before),
            education=education,
            activities=activities,
            registered_months_before=before,
        )


def _birth_date(rng: Random) -> date:
    """Uniform within 16-19, 20-29 or 30-64 years of age on REFERENCE_DATE."""
    draw = rng.random()
    if draw < _SHARE_16_TO_19:
        youngest, oldest = 16, 19
    elif draw < _SHARE_16_TO_29:
        youngest, oldest = 20, 29
    else:
        youngest, oldest = 30, 64
    first = date(REFERENCE_DATE.year - oldest - 1, 11, 1)  # the day after the reference date, a year too old
    last = date(REFERENCE_DATE.year - youngest, 10, 31)
    return date.fromordinal(_between(rng, first.toordinal(), last.toordinal()))


def _age(born: date, on: date = REFERENCE_DATE) -> int:
    return on.year - born.year - ((on.month, on.day) < (born.month, born.day))


def _name(rng: Random, sex: Sex, swedish: bool) -> tuple[str, str]:
    if swedish:
        return _one(rng, _FEMALE_NAMES_SV if sex == "F" else _MALE_NAMES_SV), _one(rng, _FAMILY_NAMES_SV)
    family = _FAMILY_NAMES_SV if rng.random() < 0.03 else _FAMILY_NAMES
    return _one(rng, _FEMALE_NAMES if sex == "F" else _MALE_NAMES), _one(rng, family)


# Lives: what happened to them.

_FOLLOWED_FROM = date(2024, 1, 8)  # the schools follow up those who left on this day or later
_FOLLOWED_UNTIL = date(2026, 9, 30)  # so that each has at least one month of follow-up
_VOCATIONAL_PROGRAMMES = tuple(name for name in _PROGRAMMES if name != _GENERAL_PROGRAMME)


def _education(rng: Random, born: date, age: int, strain: float, swedish: bool) -> Education:
    general = rng.random() < 0.45 - 0.15 * strain
    programme = _GENERAL_PROGRAMME if general else _one(rng, _VOCATIONAL_PROGRAMMES)
    if swedish:
        school = _GENERAL_SCHOOL_SV if general else _VOCATIONAL_SCHOOL_SV
    else:
        school = _one(rng, _GENERAL_SCHOOLS if general else _VOCATIONAL_SCHOOLS)
    gave_up = strain + rng.gauss(0.0, 0.7) > (0.70 if age <= 24 else 1.2)
    earliest = max(_FOLLOWED_FROM, _birthday(born, 16))
    if age <= 24 and gave_up and earliest < _FOLLOWED_UNTIL:
        left_on = date.fromordinal(_between(rng, earliest.toordinal(), _FOLLOWED_UNTIL.toordinal()))
        return Education(school, programme, "left", left_on)
    if age <= 18 or (age <= 24 and rng.random() < 0.15):
        return Education(school, programme, "enrolled", None)
    ended_on = date(born.year + (18 if gave_up else 19), 5, 31)
    return Education(school, programme, "left" if gave_up and age > 24 else "graduated", ended_on)


def _birthday(born: date, years: int) -> date:
    # 29 February becomes the 28th; nothing here depends on the day.
    return born.replace(year=born.year + years, day=min(born.day, 28))


def _work_ability(rng: Random, age: int, strain: float) -> int:
    loss = rng.gauss(-3 + 0.35 * (age - 16) + 11 * strain, 13)
    return round(min(100.0, max(5.0, 100 - max(0.0, loss))))


_MEAN_MONTHS: dict[Activity, float] = {
    "working": 60,
    "studying": 16,
    "unemployed": 9,
    "sick": 3.5,
    "rehabilitation": 5,
    "outside": 14,
}
_ACTIVITIES: tuple[Activity, ...] = tuple(_MEAN_MONTHS)
# Weights in the order of _ACTIVITIES: what follows a spell … (Rehabilitation is rare on purpose: by area its
# recipients are so few that some groups must be hidden.)
_AFTER: dict[Activity, list[float]] = {
    "working": [0, 6, 70, 19, 0.1, 4],
    "studying": [45, 0, 35, 3, 0.1, 16],
    "unemployed": [50, 10, 0, 20, 1, 18],
    "sick": [35, 3, 49, 0, 3, 5],
    "rehabilitation": [25, 15, 50, 6, 0, 4],
    "outside": [25, 20, 45, 6, 0.3, 0],
}
_AFTER_CUMULATED = {activity: tuple(accumulate(weights)) for activity, weights in _AFTER.items()}
# … and where people are at the beginning, or once they have left school.
_FRESH_LEAVER = [12.0, 8, 26, 2.5, 0.4, 50]
_YOUNG_GRADUATE = [56.0, 16, 22, 2, 0.15, 4]
_ADULT = [68.0, 3, 21, 2.5, 0.2, 4]

_STUDYING: tuple[Activity, ...] = ("studying",)


def _activities(
    rng: Random, age: int, strain: float, ability: int, education: Education
) -> tuple[Activity, ...]:
    """What the person did in each of MONTHS, as spells of geometric length that hardship makes longer."""
    if education.outcome == "enrolled":
        return _STUDYING * len(MONTHS)
    path: list[Activity] = []
    if education.ended_on is not None and education.ended_on >= MONTHS[0]:
        path.extend(_STUDYING * sum(month <= education.ended_on for month in MONTHS))
    hard, ill = math.exp(0.45 * strain), math.exp((70 - ability) / 28)
    young = _FRESH_LEAVER if education.outcome == "left" else _YOUNG_GRADUATE
    work, study, unemployed, sick, rehabilitation, outside = young if age <= 24 else _ADULT
    at_first = accumulate((work, study, unemployed * hard, sick * ill, rehabilitation * ill, outside * hard))
    current = _weighted(rng, _ACTIVITIES, tuple(at_first))
    while True:
        # Still a minor on REFERENCE_DATE: not a jobseeker yet, simply outside.
        if current == "unemployed" and age < 18:
            current = "outside"
        mean = _MEAN_MONTHS[current]
        if current == "working":
            mean /= hard
        elif current in ("unemployed", "outside"):
            mean *= hard
        path += [current] * min(len(MONTHS), 1 + int(rng.expovariate(1 / max(mean - 0.5, 0.5))))
        if len(path) >= len(MONTHS):
            return tuple(path[: len(MONTHS)])
        current = _weighted(rng, _ACTIVITIES, _AFTER_CUMULATED[current])


def _registered_months_before(
    rng: Random, born: date, strain: float, education: Education, activities: tuple[Activity, ...]
) -> int:
    """Months as a jobseeker before the first of MONTHS, at most since adulthood and the end of school."""
    first = activities[0]
    if first in ("working", "studying", "outside"):
        return 0
    if first != "unemployed" and rng.random() < 0.5:  # fell ill while in work, never a client
        return 0
    since = _birthday(born, 18)
    if education.ended_on is not None:
        since = max(since, education.ended_on)
    available = (MONTHS[0].year - since.year) * 12 + MONTHS[0].month - since.month - 1
    return max(0, min(available, 1 + int(rng.expovariate(1 / (10 * math.exp(0.3 * strain))))))


def _support_need(
    rng: Random, strain: float, ability: int, activities: tuple[Activity, ...], before: int
) -> SupportNeed:
    unemployed_months = before + activities.count("unemployed")
    score = 0.8 * strain + (80 - ability) / 25 + min(unemployed_months, 36) / 16 + rng.gauss(0.0, 0.5)
    if activities[-1] in ("sick", "rehabilitation"):
        score += 0.7
    return "none" if score < -0.6 else "low" if score < 0.6 else "medium" if score < 2.1 else "high"


# Registers: what each of them knows.

_SERVICES: tuple[Service, ...] = ("guidance", "work_trial", "training", "rehabilitation", "none")
_SERVICE_WEIGHTS: dict[SupportNeed, list[float]] = {
    "none": [15, 2, 8, 0, 75],
    "low": [30, 8, 17, 1, 44],
    "medium": [36, 19, 16, 9, 20],
    "high": [28, 17, 8, 32, 15],
}


def _is_client(person: Person) -> bool:
    return "unemployed" in person.activities or person.registered_months_before > 0


def _clients(rng: Random, people: Sequence[Person]) -> Iterator[Client]:
    for person in filter(_is_client, people):
        before = person.registered_months_before
        if "rehabilitation" in person.activities and rng.random() < 0.8:
            service: Service = "rehabilitation"
        else:
            service = rng.choices(_SERVICES, _SERVICE_WEIGHTS[person.support_need])[0]
        yield Client(
            hetu=person.hetu,
            name=person.name,
            birth_year=person.born.year,
            postal_code=person.postal_code,
            registered_on=_registered_on(rng, person),
            unemployed_months=before + person.activities.count("unemployed"),
            occupation_code=_one(rng, _PROGRAMMES[person.education.programme]),
            service=service,
            support_need=person.support_need,
        )


def _registered_on(rng: Random, person: Person) -> date:
    before = person.registered_months_before
    months = -before if before else person.activities.index("unemployed")
    year, month = divmod(MONTHS[0].year * 12 + MONTHS[0].month - 1 + months, 12)
    return date(year, month + 1, _between(rng, 1, calendar.monthrange(year, month + 1)[1]))


_ONLY_KELA_SHARE = 0.68  # the others have an unemployment fund
_HOUSING_SHARE: dict[Activity, float] = {
    "working": 0.01,
    "studying": 0.06,
    "outside": 0.2,
    "unemployed": 0.08,
}
_BASIC_ALLOWANCE_MONTHS = 14


def _benefits(rng: Random, people: Sequence[Person]) -> Iterator[BenefitMonth]:
    by_month: list[list[BenefitMonth]] = [[] for _ in MONTHS]
    for person in people:
        of_activity = _benefit_of_activity(rng, person)
        if not any(of_activity.values()):
            continue
        name, birth_year = person.name, person.born.year
        adult_from = _birthday(person.born, 18)
        unemployed_months = person.registered_months_before
        for month, activity, rows in zip(MONTHS, person.activities, by_month, strict=True):
            unemployed_months += activity == "unemployed"
            benefit = of_activity[activity]
            if benefit is None or (month < adult_from and activity not in ("sick", "rehabilitation")):
                continue
            if benefit == "basic_allowance" and unemployed_months > _BASIC_ALLOWANCE_MONTHS:
                benefit = "labour_market_subsidy"
            rows.append(
                BenefitMonth(
                    hetu=person.hetu,
                    name=name,
                    postal_code=person.postal_code,
                    birth_year=birth_year,
                    sex=person.sex,
                    benefit=benefit,
                    month=month,
                    sick_days=_sick_days(rng, activity, person.work_ability_pct),
                    work_capacity_pct=_work_capacity(activity, person.work_ability_pct),
                )
            )
    for rows in by_month:
        yield from rows


def _benefit_of_activity(rng: Random, person: Person) -> dict[Activity, Benefit | None]:
    """What each activity of the person's year entitles to, the same through all months."""
    rights: dict[Activity, Benefit | None] = {}
    for activity in dict.fromkeys(person.activities):  # not a set: its order differs between processes
        housing = rng.random() < _HOUSING_SHARE.get(activity, 0.0)
        right: Benefit | None = "housing_allowance" if housing else None
        if activity == "sick" and rng.random() < 0.95:
            right = "sickness_allowance"
        elif activity == "rehabilitation" and rng.random() < 0.9:
            right = "rehabilitation_allowance"
        elif activity == "unemployed" and rng.random() < _ONLY_KELA_SHARE:
            graduated = person.education.outcome == "graduated"
            right = "basic_allowance" if graduated and rng.random() < 0.6 else "labour_market_subsidy"
        rights[activity] = right
    return rights


def _sick_days(rng: Random, activity: Activity, ability: int) -> int:
    if activity == "sick":
        return _between(rng, 10, 26)
    if rng.random() < (100 - ability) / 250:
        return _between(rng, 1, 9)
    return 0


def _work_capacity(activity: Activity, ability: int) -> int | None:
    """The assessment on file, in steps of 5; there is none for a healthy person who never asked for one."""
    if activity == "sick":
        return max(0, ability // 2 // 5 * 5)
    if activity == "rehabilitation" or ability < 70:
        return ability // 5 * 5
    return None


_STATUS: dict[Activity, LeaverStatus] = {
    "working": "working",
    "studying": "studying",
    "unemployed": "outside",
    "sick": "outside",
    "rehabilitation": "outside",
    "outside": "outside",
}
_ABSENCE_DAYS: dict[LeaverStatus, tuple[int, int]] = {
    "outside": (6, 22),
    "working": (0, 3),
    "studying": (0, 7),
    "unknown": (12, 22),
}
_HARD_TO_REACH_SHARE = 0.25


def _followed(person: Person) -> bool:
    ended_on = person.education.ended_on
    return person.education.outcome == "left" and ended_on is not None and ended_on >= _FOLLOWED_FROM


def _leavers(rng: Random, people: Sequence[Person]) -> Iterator[LeaverMonth]:
    by_month: list[list[LeaverMonth]] = [[] for _ in MONTHS]
    for person in filter(_followed, people):
        left_on = person.education.ended_on
        assert left_on is not None  # _followed asked
        name = person.name
        unknown_share = 0.3 if rng.random() < _HARD_TO_REACH_SHARE else 0.01
        for month, activity, rows in zip(MONTHS, person.activities, by_month, strict=True):
            if month <= left_on:
                continue
            status = "unknown" if rng.random() < unknown_share else _STATUS[activity]
            rows.append(
                LeaverMonth(
                    hetu=person.hetu,
                    name=name,
                    phone=person.phone,
                    postal_code=person.postal_code,
                    school=person.education.school,
                    programme=person.education.programme,
                    left_on=left_on,
                    month=month,
                    status=status,
                    absence_days=_between(rng, *_ABSENCE_DAYS[status]),
                )
            )
    for rows in by_month:
        yield from rows


# Consents: what people answered.

_NEWEST_CONSENT = datetime(2026, 10, 30, 18, tzinfo=UTC)
_LONG_VALIDITY = timedelta(days=5 * 365)  # outlives the demonstration, whenever in the next years it is shown
_SHORT_VALIDITY = timedelta(days=365)


def _school_consents(rng: Random, people: Sequence[Person]) -> Iterator[Consent]:
    """Purpose "outreach", recipient "youth": 61 % of the leavers have a valid one."""
    answer = _answers(rng, "school", "outreach", "youth", given=0.61, refused=0.13, withdrawn=0.07)
    for person in filter(_followed, people):
        assert person.education.ended_on is not None  # _followed asked
        consent = answer(person.hetu, person.education.ended_on)
        if consent is not None:
            yield consent


def _kela_consents(
    rng: Random, clients: Sequence[Client], benefits: Sequence[BenefitMonth]
) -> Iterator[Consent]:
    """Purpose "case-work", recipient "employment": 55 % of those in both registers have a valid one."""
    answer = _answers(rng, "kela", "case-work", "employment", given=0.55, refused=0.15, withdrawn=0.06)
    recipients = {row.hetu for row in benefits}
    for client in clients:
        if client.hetu in recipients:
            consent = answer(client.hetu, max(client.registered_on, _FOLLOWED_FROM))
            if consent is not None:
                yield consent


def _answers(
    rng: Random,
    controller: str,
    purpose: str,
    recipient: str,
    *,
    given: float,
    refused: float,
    withdrawn: float,
) -> Callable[[str, date], Consent | None]:
    """Draw answers in the stated shares; the rest was never asked, but for 2 % whose consent has run out."""

    def answer(hetu: str, asked_from: date) -> Consent | None:
        earliest = datetime(asked_from.year, asked_from.month, asked_from.day, 8, tzinfo=UTC)
        draw = rng.random()
        given_at = _instant(rng, earliest, _NEWEST_CONSENT)
        if draw < given:
            state: ConsentState = "given"
            valid_until = given_at + _LONG_VALIDITY
        elif draw < given + refused:
            state, valid_until = "refused", given_at
        elif draw < given + refused + withdrawn:
            state, valid_until = "withdrawn", _instant(rng, given_at, _NEWEST_CONSENT)
        elif draw < given + refused + withdrawn + 0.02 and earliest + _SHORT_VALIDITY < _NEWEST_CONSENT:
            state = "given"
            given_at = _instant(rng, earliest, _NEWEST_CONSENT - _SHORT_VALIDITY)
            valid_until = given_at + _SHORT_VALIDITY
        else:
            return None
        return Consent(hetu, controller, purpose, recipient, state, _utc(given_at), _utc(valid_until))

    return answer


def _instant(rng: Random, earliest: datetime, latest: datetime) -> datetime:
    return earliest + timedelta(seconds=_between(rng, 0, max(0, int((latest - earliest).total_seconds()))))


def _utc(instant: datetime) -> str:
    return f"{instant.replace(tzinfo=None).isoformat()}Z"
