"""Names, trades and places of the sample world; none of them hints at an answer."""

NAMES = (
    "Ada Bell", "Ben Frost", "Cora Lind", "Dan Okoro", "Elif Stone", "Finn Hale", "Gita Rao",
    "Hugo Marsh", "Iris Vance", "Jon Reed", "Kaya Moss", "Leo Brandt", "Mina Park", "Nils Berg", "Olga Cruz",
    "Paul Adler", "Rosa Klein", "Sam Porter", "Tara Quinn", "Uma Dale", "Vera North", "Will Archer", "Yara Cole", "Zeno Fox",
)  # fmt: skip

JOBS = (
    "baker", "teacher", "tailor", "gardener", "nurse", "clerk", "painter", "cook", "driver",
    "farmer", "sailor", "singer", "student", "plumber", "librarian", "barber", "dentist", "waiter", "potter", "guide",
)  # fmt: skip

TOWNS = (
    "Ulmstead", "Port Amber", "Greyford", "Lindow", "Marrow Bay", "Eastholm", "Calder", "Novik",
    "Tarn Hill", "Riverton", "Oakmere", "Saltby", "Westray", "Hollin", "Dunmore", "Fernley", "Kestrel", "Brackwater",
)  # fmt: skip
