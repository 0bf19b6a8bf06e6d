"""The words that the generated catalogue is written with: categories with their tags and nouns, places, names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Genre:
    """One category: the tags its items choose from and the nouns their titles are made of."""

    name: str
    tags: tuple[str, ...]
    nouns: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _genre(name: str, tags: str, nouns: str) -> Genre:
    return Genre(name, tuple(tags.split(", ")), _words(nouns))


GENRES: tuple[Genre, ...] = (
    _genre(
        "Adventure",
        "expedition, treasure, at sea, jungle, mountains, survival, map, frontier",
        "Compass Caravan Summit Voyage Expedition Lagoon Outpost Ridge Galleon Passage",
    ),
    _genre(
        "Biography",
        "artist, scientist, politics, self-made, exile, letters, childhood, sport star",
        "Portrait Witness Apprentice Memoir Diary Pioneer Inheritance Signature Album Confession",
    ),
    _genre(
        "Family",
        "animals, bedtime, friendship, school, magic, counting, rhymes, holiday",
        "Hedgehog Button Kite Treehouse Teapot Puddle Dragonfly Marble Lullaby Otter",
    ),
    _genre(
        "Comedy",
        "satire, slapstick, family, workplace, romance gone wrong, small town, dry humour, road trip",
        "Wedding Neighbour Butler Mishap Accordion Umbrella Parade Dentist Reunion Trombone",
    ),
    _genre(
        "Cookery",
        "baking, vegetarian, street food, slow cooking, spices, seafood, desserts, one pot",
        "Kitchen Orchard Table Harvest Oven Market Pepper Lemon Feast Larder",
    ),
    _genre(
        "Crime",
        "detective, heist, courtroom, cold case, noir, undercover, forensic, small town secrets",
        "Alibi Ledger Verdict Informer Locksmith Motive Cellar Fugitive Evidence Warehouse",
    ),
    _genre(
        "Drama",
        "family saga, coming of age, loss, class, marriage, village, war years, second chances",
        "Harbour House Winter Promise Daughter Silence Window Station Garden Promenade",
    ),
    _genre(
        "Fantasy",
        "dragons, quest, magic school, prophecy, fae, epic, sword, hidden world",
        "Throne Rune Dragon Tower Sorcerer Crown Oath Raven Gate Ember",
    ),
    _genre(
        "History",
        "ancient, medieval, empire, revolution, trade, maritime, archaeology, everyday life",
        "Empire Chronicle Siege Dynasty Treaty Fortress Merchant Aqueduct Envoy Archive",
    ),
    _genre(
        "Horror",
        "haunted house, folk horror, vampires, possession, cabin, psychological, sea creature, cult",
        "Attic Hollow Crypt Whisper Mask Cabin Fog Shadow Lantern Scarecrow",
    ),
    _genre(
        "Music",
        "jazz, orchestra, folk, electronic, live, piano, choir, songwriter",
        "Nocturne Overture Chorus Ballad Rhythm Sonata Echo Encore Serenade Refrain",
    ),
    _genre(
        "Nature",
        "birds, forest, ocean, garden, climate, wildlife, mountains, field guide",
        "River Meadow Heron Glacier Forest Tide Moth Island Wolf Reef",
    ),
    _genre(
        "Romance",
        "slow burn, holiday romance, enemies to lovers, historical, second love, letters, bookshop, island",
        "Letter Kiss Bookshop Summer Heart Dance Vineyard Stranger Waltz Bouquet",
    ),
    _genre(
        "Science Fiction",
        "space, robots, time travel, first contact, dystopia, colony, hard science, cyberpunk",
        "Orbit Nebula Signal Machine Colony Satellite Paradox Android Horizon Beacon",
    ),
    _genre(
        "Thriller",
        "spy, conspiracy, chase, hostage, political, technology, double agent, ticking clock",
        "Cipher Agent Protocol Border Countdown Courier Hostage Deadline Embassy Decoy",
    ),
    _genre(
        "Travel",
        "by train, islands, cities, food, pilgrimage, desert, on foot, sailing",
        "Road Railway Lighthouse Terrace Bazaar Ferry Pilgrim Atlas Desert Balcony",
    ),
)

ADJECTIVES = _words(
    "Quiet Golden Broken Hidden Silver Last First Crimson Distant Endless Forgotten Gentle Hollow Invisible Lonely "
    "Lost Midnight Northern Painted Patient Restless Salt Scarlet Second Secret Silent Sleeping Small Southern Stolen "
    "Strange Sunken Tall Thirteenth Uncertain Unfinished Velvet Wandering White Wild"
)
PLACES = _words(
    "Lisbon Bergen Marrakesh Kyoto Trieste Havana Tallinn Galway Naples Istanbul Odessa Valparaíso Bruges Seville "
    "Reykjavík Zanzibar Montréal Samarkand Dubrovnik Hanoi Porto Edinburgh Tbilisi Cartagena Gdańsk Palermo"
)
NAMES = _words(
    "Clara Anton Miriam Tomás Ingrid Yusuf Odile Henrik Rosa Emil Nadia Pablo Greta Ivo Leila Oskar Amara Felix Sofia "
    "Jonas Marta Idris Elena Viktor Hana Luca Petra Samuel Noor Agnes"
)
TITLES = (
    "The {adjective} {noun}",
    "{plural} over {place}",
    "The {noun} of {place}",
    "{name} and the {adjective} {noun}",
    "{a_noun} for {name}",
    "The {adjective} {plural}",
    "{name}'s {noun}",
    "{adjective} {plural} of {place}",
    "Beyond the {adjective} {noun}",
    "One {noun} in {place}",
)
DESCRIPTIONS = (
    "{a_genre} {kind} of {first} and {second}, set in {place}.",
    "{name} comes to {place}. {a_genre} {kind}: {first}, {second}.",
    "{a_genre} {kind} for those who like {first} and {second}.",
)

LANGUAGES = (("en", 0.62), ("es", 0.12), ("de", 0.1), ("fr", 0.1), ("pt", 0.06))
COUNTRIES = (("GB", 0.3), ("US", 0.25), ("DE", 0.15), ("ES", 0.12), ("FR", 0.1), ("PT", 0.08))
KINDS = (("book", 0.45), ("film", 0.3), ("series", 0.15), ("audiobook", 0.1))
