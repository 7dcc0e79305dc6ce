//! The demo model's corpus: a grammar of small stories.
//!
//! A story has a hero and a friend, a place, and one of eight plots with a
//! problem, an attempt and an end. Names, kinds and pronouns are drawn once
//! per story, so a model that keeps them has learned to look back.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

#[derive(Clone, Copy)]
struct Pronoun {
    he: &'static str,
    him: &'static str,
    his: &'static str,
}

const HE: Pronoun = Pronoun {
    he: "he",
    him: "him",
    his: "his",
};
const SHE: Pronoun = Pronoun {
    he: "she",
    him: "her",
    his: "her",
};

const NAMES: &[(&str, Pronoun)] = &[
    ("Tom", HE),
    ("Max", HE),
    ("Finn", HE),
    ("Leo", HE),
    ("Sam", HE),
    ("Oscar", HE),
    ("Hugo", HE),
    ("Ben", HE),
    ("Jack", HE),
    ("Theo", HE),
    ("Felix", HE),
    ("Henry", HE),
    ("Lily", SHE),
    ("Anna", SHE),
    ("Mia", SHE),
    ("Rosa", SHE),
    ("Nora", SHE),
    ("Ella", SHE),
    ("Ida", SHE),
    ("Clara", SHE),
    ("Zoe", SHE),
    ("Ruby", SHE),
    ("Alice", SHE),
    ("Emma", SHE),
];
const VILLAGES: &[&str] = &[
    "Milton",
    "Ottville",
    "Noahfield",
    "Jasperwood",
    "Arthurbury",
    "Emilton",
    "Victorville",
    "Simonfield",
    "Peterwood",
    "Robinbury",
    "Martinton",
    "Oliverville",
    "Antonfield",
    "Walterwood",
    "Edgarbury",
    "Basilton",
    "Conradville",
    "Gustavfield",
    "Rupertwood",
    "Casperbury",
    "Eliaston",
    "Jonasville",
    "Lucasfield",
    "Florwood",
    "Gretbury",
    "Hazelton",
    "Ivville",
    "Julfield",
    "Lunwood",
    "Mbury",
    "Olivton",
    "Pennville",
    "Sophfield",
    "Tildwood",
    "Verbury",
    "Wilmton",
    "Daisville",
    "Bellfield",
    "Corwood",
    "Edithbury",
    "Frton",
    "Hannahville",
    "Matildfield",
    "Agneswood",
    "Beatricbury",
    "Juniperton",
    "Albertville",
    "Brunfield",
    "Clementwood",
    "Dexterbury",
    "Ernestton",
    "Franklinville",
    "Gilbertfield",
    "Herbertwood",
    "Isaacbury",
    "Juliuston",
    "Kasperville",
    "Lorenzfield",
    "Magnuswood",
    "Nelsonbury",
    "Orlandton",
    "Percville",
    "Quentinfield",
    "Rolandwood",
    "Stanlbury",
    "Tobiaston",
    "Ulrichville",
    "Vincentfield",
    "Wendelwood",
    "Xavierbury",
    "Zacharton",
    "Adelaidville",
    "Bridgetfield",
    "Celestwood",
    "Dorothbury",
    "Eleanorton",
    "Felicitville",
    "Georginfield",
    "Harrietwood",
    "Isabelbury",
    "Josephinton",
    "Katrinville",
    "Lavinfield",
    "Marigoldwood",
    "Nadbury",
    "Ophelton",
    "Philippville",
    "Quinnfield",
    "Rosalindwood",
    "Susannbury",
    "Theodorton",
    "Ursulville",
    "Violetfield",
    "Winifredwood",
    "Yvonnbury",
    "Zeldton",
];
const ANIMALS: &[&str] = &[
    "fox",
    "bear",
    "rabbit",
    "mouse",
    "cat",
    "dog",
    "frog",
    "duck",
    "hedgehog",
    "squirrel",
    "badger",
    "goat",
    "lamb",
    "mole",
    "beaver",
    "pony",
    "raccoon",
    "kitten",
    "puppy",
    "lizard",
    "sparrow",
    "robin",
    "penguin",
    "weasel",
    "hamster",
    "chipmunk",
    "goose",
    "swan",
    "calf",
    "foal",
    "piglet",
    "ferret",
    "marten",
    "shrew",
    "dormouse",
    "gosling",
    "lynx",
    "deer",
    "hare",
    "toad",
    "otter",
    "walrus",
    "koala",
    "panda",
    "tortoise",
    "peacock",
    "pelican",
    "flamingo",
    "gazelle",
    "meerkat",
    "porcupine",
    "hippo",
    "camel",
    "llama",
    "ostrich",
    "puffin",
    "seal",
    "gecko",
    "salamander",
    "wombat",
];
const TRAITS: &[&str] = &[
    "little",
    "young",
    "clever",
    "brave",
    "shy",
    "kind",
    "curious",
    "gentle",
    "quiet",
    "merry",
    "cheerful",
    "careful",
    "lazy",
    "patient",
    "polite",
    "proud",
    "sleepy",
    "playful",
    "thoughtful",
    "lively",
    "stubborn",
    "honest",
    "timid",
    "jolly",
];
const PLACES: &[&str] = &[
    "in a deep forest",
    "by a blue lake",
    "near an old mill",
    "on a green hill",
    "in a small village",
    "at the edge of a meadow",
    "beside a quiet river",
    "under a tall oak",
    "behind a stone wall",
    "in a sunny valley",
    "on a tiny island",
    "close to a sandy beach",
    "in a hollow tree",
    "at the foot of a snowy mountain",
    "beside a dusty road",
    "in a crooked cottage",
    "behind a waterfall",
    "on a windy cliff",
    "in a walled orchard",
    "near a busy harbour",
    "at the end of a narrow lane",
    "in a cave with a round door",
    "on an apple farm",
    "under a wooden bridge",
    "next to a windmill",
];
const COLOURS: &[&str] = &[
    "red",
    "silver",
    "golden",
    "blue",
    "wooden",
    "warm",
    "tiny",
    "green",
    "shiny",
    "paper",
    "yellow",
    "purple",
    "striped",
    "copper",
    "velvet",
    "painted",
    "crystal",
    "white",
    "round",
    "woollen",
    "orange",
    "spotted",
    "leather",
    "polished",
    "crimson",
    "turquoise",
    "lavender",
    "ivory",
    "bronze",
    "emerald",
    "scarlet",
    "amber",
    "rusty",
    "dusty",
    "glittering",
    "enormous",
    "delicate",
    "crooked",
    "ancient",
    "precious",
    "ordinary",
    "marvellous",
    "handmade",
    "magical",
];
const TREASURES: &[&str] = &[
    "ball",
    "bell",
    "key",
    "kite",
    "boat",
    "scarf",
    "drum",
    "hat",
    "button",
    "lantern",
    "ring",
    "whistle",
    "cup",
    "spoon",
    "basket",
    "blanket",
    "mirror",
    "trumpet",
    "feather",
    "marble",
    "puppet",
    "necklace",
    "compass",
    "flute",
    "pebble",
    "shell",
    "umbrella",
    "bracelet",
    "pillow",
    "crown",
    "ribbon",
    "candle",
    "bucket",
    "kettle",
    "thimble",
    "wagon",
    "violin",
    "teapot",
    "acorn",
    "medal",
    "locket",
    "telescope",
    "hourglass",
    "harmonica",
    "saddle",
    "slipper",
    "bucketful",
    "goblet",
    "tambourine",
    "bonnet",
    "paintbrush",
    "weathervane",
    "music-box",
    "spyglass",
    "teacup",
    "snow-globe",
    "rattle",
    "hammock",
    "ladle",
    "mitten",
    "quilt",
    "satchel",
    "trinket",
    "vase",
    "whirligig",
    "yo-yo",
    "xylophone",
    "zither",
    "accordion",
    "bookmark",
    "chessboard",
    "doll",
    "envelope",
    "figurine",
    "garland",
    "hairbrush",
    "inkwell",
    "jigsaw",
    "keyhole",
    "lollipop",
    "mandolin",
    "notebook",
    "ornament",
    "parasol",
    "quill",
    "rucksack",
    "sailboat",
    "tapestry",
    "unicycle",
    "vial",
    "walking-stick",
];
const SPOTS: &[&str] = &[
    "under the bridge",
    "behind the barn",
    "in the tall grass",
    "near the well",
    "beside the old tree",
    "at the bottom of the garden",
    "between two stones",
    "on top of the hay",
    "inside a hollow log",
    "under the stairs",
    "behind the curtain",
    "among the flowers",
    "in the chicken coop",
    "beneath the bench",
    "beside the chimney",
    "on the roof",
    "under a pile of leaves",
    "in the kitchen drawer",
    "below the window",
    "next to the fountain",
    "inside the cupboard",
    "behind the sacks of flour",
];
const FOODS: &[&str] = &[
    "apples",
    "berries",
    "nuts",
    "pears",
    "carrots",
    "warm bread",
    "honey cakes",
    "plums",
    "cherries",
    "walnuts",
    "turnips",
    "pumpkins",
    "raspberries",
    "chestnuts",
    "mushrooms",
    "potatoes",
    "biscuits",
    "peaches",
    "muffins",
    "radishes",
    "blueberries",
    "pancakes",
    "cabbages",
    "strawberries",
    "gooseberries",
    "hazelnuts",
    "apricots",
    "sandwiches",
    "dumplings",
    "tomatoes",
    "cucumbers",
    "marshmallows",
    "doughnuts",
    "pretzels",
];
const SKILLS: &[(&str, &str)] = &[
    ("swim", "swam across the pond"),
    ("sing", "sang a lovely song"),
    ("dance", "danced around the fire"),
    ("paint", "painted a bright picture"),
    ("climb", "climbed to the top of the tree"),
    ("whistle", "whistled like a bird"),
    ("skate", "skated over the ice"),
    ("read", "read a whole story"),
    ("juggle", "juggled three pears at once"),
    ("bake", "baked a chocolate cake"),
    ("knit", "knitted a pair of mittens"),
    ("fish", "caught a splendid trout"),
    ("write", "wrote a long letter"),
    ("cook", "cooked a pot of soup"),
    ("ride", "rode all the way to market"),
    ("sew", "sewed a beautiful coat"),
    ("row", "rowed to the lighthouse"),
    ("dive", "dived for a pearl"),
    ("draw", "drew a map of the stars"),
    ("count", "counted to one hundred"),
];
const HELPERS: &[&str] = &[
    "a wise owl",
    "an old turtle",
    "a grey heron",
    "a friendly crow",
    "a tall stork",
    "an old donkey",
    "a slow snail",
    "a huge moose",
    "a bearded wizard",
    "a jolly baker",
    "an ancient raven",
    "a busy tailor",
    "a kind miller",
    "a clever magpie",
    "a retired sailor",
    "a gruff shepherd",
];
const TIMES: &[&str] = &[
    "One morning",
    "One day",
    "One evening",
    "One summer day",
    "One cold day",
    "Early one morning",
    "One autumn afternoon",
    "One rainy Tuesday",
    "On the first day of spring",
    "One winter night",
    "Late one Sunday",
    "One foggy morning",
    "Just before supper",
    "On a bright Saturday",
];
const FEELINGS: &[&str] = &[
    "happy",
    "proud",
    "glad",
    "full of joy",
    "content",
    "very pleased",
    "thankful",
    "cheerful",
];

struct Character {
    name: &'static str,
    kind: &'static str,
    is: Pronoun,
}

struct Story<'r> {
    rng: &'r mut StdRng,
    hero: Character,
    friend: Character,
    place: String,
    text: String,
}

/// One story, without the end-of-text mark.
pub fn story(rng: &mut StdRng) -> String {
    let hero = character(rng, None);
    let friend = character(rng, Some(&hero));
    let place = if rng.random_bool(0.3) {
        format!("in the village of {}", pick(rng, VILLAGES))
    } else {
        pick(rng, PLACES).to_owned()
    };
    let mut story = Story {
        rng,
        hero,
        friend,
        place,
        text: String::new(),
    };
    story.opening();
    match story.rng.random_range(0..8) {
        0 => story.lost_treasure(),
        1 => story.wish_to_learn(),
        2 => story.storm(),
        3 => story.sharing(),
        4 => story.new_neighbour(),
        5 => story.journey(),
        6 => story.quarrel(),
        _ => story.afraid_of_the_dark(),
    }
    story.ending();
    story.text
}

fn pick<T: Copy>(rng: &mut StdRng, list: &[T]) -> T {
    // The lists above are constants with entries.
    *list.choose(rng).expect("a list with entries")
}

fn character(rng: &mut StdRng, other: Option<&Character>) -> Character {
    loop {
        let (name, is) = pick(rng, NAMES);
        let kind = pick(rng, ANIMALS);
        if other.is_none_or(|o| o.name != name && o.kind != kind) {
            return Character { name, kind, is };
        }
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

impl Story<'_> {
    fn say(&mut self, sentence: impl AsRef<str>) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push(' ');
        }
        self.text.push_str(sentence.as_ref());
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        pick(self.rng, list)
    }

    /// Such as "red ball".
    fn treasure(&mut self) -> String {
        format!("{} {}", self.pick(COLOURS), self.pick(TREASURES))
    }

    fn maybe(&mut self) -> bool {
        self.rng.random_bool(0.5)
    }

    fn opening(&mut self) {
        let (name, kind, place) = (self.hero.name, self.hero.kind, self.place.clone());
        let quality = self.pick(TRAITS);
        let sentence = match self.rng.random_range(0..10) {
            0 => format!("There was once a {quality} {kind} named {name}, who lived {place}."),
            1 => format!("Long ago, a {quality} {kind} named {name} lived {place}."),
            _ => format!(
                "Once upon a time, there was a {quality} {kind} named {name}. {} lived {place}.",
                capital(self.hero.is.he)
            ),
        };
        self.say(sentence);
        if self.maybe() {
            let (friend, kind) = (self.friend.name, self.friend.kind);
            let his = capital(self.hero.is.his);
            self.say(format!("{his} best friend was a {kind} named {friend}."));
        } else {
            let (friend, kind) = (self.friend.name, self.friend.kind);
            self.say(format!(
                "{name} had a good friend, a {kind} named {friend}."
            ));
        }
    }

    fn ending(&mut self) {
        let (hero, friend) = (self.hero.name, self.friend.name);
        let feeling = self.pick(FEELINGS);
        let sentence = match self.rng.random_range(0..4) {
            0 => format!("From that day on, {hero} and {friend} were the best of friends."),
            1 => format!("{hero} and {friend} went home together, and they were {feeling}."),
            2 => format!("That night {hero} slept well and was {feeling}."),
            _ => "And they all lived happily ever after.".to_owned(),
        };
        self.say(sentence);
    }

    fn lost_treasure(&mut self) {
        let (hero, friend, is) = (self.hero.name, self.friend.name, self.hero.is);
        let (treasure, spot) = (self.treasure(), self.pick(SPOTS));
        let wrong = self.pick(SPOTS);
        let time = self.pick(TIMES);
        self.say(format!("{hero} had a {treasure} and loved it very much."));
        self.say(format!(
            "{time}, the {treasure} was gone. {hero} looked everywhere and began to cry."
        ));
        self.say(format!(
            "\"Do not cry,\" said {friend}. \"I will help you find your {treasure}.\""
        ));
        if wrong != spot {
            self.say(format!("First they looked {wrong}, but it was not there."));
        }
        self.say(format!(
            "Then {friend} looked {spot}, and there was the {treasure}!"
        ));
        self.say(format!(
            "\"Thank you, {friend}!\" said {hero}, and {} held it tight.",
            is.he
        ));
    }

    fn wish_to_learn(&mut self) {
        let (hero, friend, is) = (self.hero.name, self.friend.name, self.hero.is);
        let (skill, done) = self.pick(SKILLS);
        let (helper, time) = (self.pick(HELPERS), self.pick(TIMES));
        let (_, helper_kind) = helper.split_once(' ').unwrap_or(("", helper));
        self.say(format!(
            "{hero} wished to {skill}, but {} did not know how.",
            is.he
        ));
        self.say(format!(
            "{time}, {hero} met {helper}. \"Please teach me to {skill},\" said {hero}."
        ));
        self.say(format!(
            "\"You must try every day,\" said the {helper_kind}."
        ));
        self.say(format!(
            "So {hero} tried and tried. At first it was hard, but {} did not give up.",
            is.he
        ));
        self.say(format!("At last {hero} {done}."));
        self.say(format!(
            "\"Well done!\" said {friend}, who had watched {}.",
            is.him
        ));
    }

    fn storm(&mut self) {
        let (hero, friend, their) = (self.hero.name, self.friend.name, self.friend.is);
        let time = self.pick(TIMES);
        self.say(format!(
            "{time}, a big storm came. The wind blew and the rain fell."
        ));
        self.say(format!(
            "{friend} was caught in the storm and could not find the way home."
        ));
        self.say(format!("\"Help!\" called {friend}. \"I am lost!\""));
        self.say(format!(
            "{hero} heard {} and took a lantern. {} ran out into the rain.",
            their.him,
            capital(self.hero.is.he)
        ));
        self.say(format!(
            "Soon {hero} found {friend} and took {} home.",
            their.him
        ));
        if self.maybe() {
            self.say("They sat by the fire and drank hot tea until the storm was over.");
        } else {
            self.say(format!(
                "\"You are very brave,\" said {friend}, and {} smiled again.",
                their.he
            ));
        }
    }

    fn sharing(&mut self) {
        let (hero, friend, is) = (self.hero.name, self.friend.name, self.hero.is);
        let (food, treasure, time) = (self.pick(FOODS), self.treasure(), self.pick(TIMES));
        self.say(format!(
            "{time}, {hero} found a basket of {food}. \"How lucky I am!\" said {hero}."
        ));
        self.say(format!(
            "On the way home {} met {friend}, who was hungry and sad.",
            is.he
        ));
        self.say(format!(
            "\"Would you like some {food}?\" asked {hero}. \"Oh yes, please!\" said {friend}."
        ));
        self.say(format!("They sat down and shared the {food}."));
        let their = self.friend.is;
        self.say(format!("The next day {friend} came back and gave {hero} a {treasure}, because {} was so thankful.", their.he));
    }

    fn new_neighbour(&mut self) {
        let (hero, friend, is) = (self.hero.name, self.friend.name, self.hero.is);
        let (helper, food, time) = (self.pick(HELPERS), self.pick(FOODS), self.pick(TIMES));
        let (_, kind) = helper.split_once(' ').unwrap_or(("", helper));
        self.say(format!("{time}, {helper} moved into the house next door. The {kind} knew nobody and was lonely."));
        self.say(format!("\"Let us say hello,\" said {hero}. \"But what if the {kind} does not like us?\" asked {friend}."));
        self.say(format!(
            "{hero} baked something with {food} and knocked on the door with {} friend.",
            is.his
        ));
        self.say(format!(
            "\"Welcome!\" they said. The {kind} smiled and asked them in."
        ));
        self.say(format!(
            "They ate, they laughed, and the {kind} was not lonely any more."
        ));
    }

    fn journey(&mut self) {
        let (hero, friend, is) = (self.hero.name, self.friend.name, self.hero.is);
        let goal = self.pick(&[
            "the sea",
            "the high mountain",
            "the big city",
            "the old castle",
            "the northern lights",
            "the royal palace",
            "the great desert",
            "the secret garden",
            "the frozen lake",
            "the famous clock tower",
        ]);
        let (helper, time) = (self.pick(HELPERS), self.pick(TIMES));
        let (_, kind) = helper.split_once(' ').unwrap_or(("", helper));
        self.say(format!(
            "{hero} had always wanted to see {goal}. {time}, {} packed a bag.",
            is.he
        ));
        self.say(format!(
            "\"May I come with you?\" asked {friend}. \"Of course,\" said {hero}."
        ));
        self.say("They walked for a long time, until they came to a wide river with no bridge.");
        self.say(format!(
            "\"How can we cross?\" asked {hero}. Then they met {helper}."
        ));
        self.say(format!(
            "\"I know a safe way,\" said the {kind}, and showed them the stones in the water."
        ));
        self.say(format!(
            "In the end they saw {goal}, and it was more beautiful than a dream."
        ));
    }

    fn quarrel(&mut self) {
        let (hero, friend, is) = (self.hero.name, self.friend.name, self.hero.is);
        let (treasure, time) = (self.treasure(), self.pick(TIMES));
        self.say(format!("{time}, {hero} and {friend} found a {treasure}."));
        self.say(format!(
            "\"It is mine!\" said {hero}. \"No, it is mine!\" said {friend}."
        ));
        self.say(format!(
            "They pulled and pulled, and the {treasure} fell into the mud."
        ));
        self.say(format!(
            "{hero} went home and felt bad. {} missed {} friend.",
            capital(is.he),
            is.his
        ));
        self.say(format!(
            "So {} went back. \"I am sorry,\" said {hero}. \"I am sorry too,\" said {friend}.",
            is.he
        ));
        self.say(format!(
            "They cleaned the {treasure} and played with it together."
        ));
    }

    fn afraid_of_the_dark(&mut self) {
        let (hero, friend, is) = (self.hero.name, self.friend.name, self.hero.is);
        let sound = self.pick(&[
            "the wind",
            "an owl",
            "a small mouse",
            "the rain",
            "a loose shutter",
            "a cricket",
            "the creaking gate",
            "a dripping tap",
            "a branch against the glass",
        ]);
        self.say(format!(
            "{hero} was afraid of the dark. Every night {} heard a strange sound.",
            is.he
        ));
        self.say(format!(
            "\"What is it?\" whispered {hero}. \"Is it a monster?\""
        ));
        self.say(format!(
            "One night {friend} came to stay. \"Let us look together,\" said {friend}."
        ));
        self.say(format!(
            "They took a lamp and opened the door. It was only {sound}!"
        ));
        self.say(format!(
            "{hero} laughed, and {} was not afraid any more.",
            is.he
        ));
    }
}
