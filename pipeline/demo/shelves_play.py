"""Shelf tables: toys and sports. One row a leaf; see `taxonomy.leaf`."""

from pipeline.demo import draw_footwear as feet
from pipeline.demo import draw_play as play
from pipeline.demo import draw_toys as toys
from pipeline.demo.taxonomy import Leaf, leaf, shelf

_TOYS = (
    *shelf(
        "Toys > Plush & Dolls",
        "toy|plush|kids gift",
        "fur",
        leaf("Teddy Bears", "plush bear|stuffed animal", toys.bear),
        leaf("Fashion Dolls", "doll|dress up doll", toys.doll, hues="any"),
    ),
    *shelf(
        "Toys > Vehicles",
        "toy|vehicle|play set",
        "bright",
        leaf("Toy Cars", "die cast car|race car", toys.vehicle),
        leaf(
            "Dump Trucks", "construction truck|toy truck", toys.vehicle, hues="yellow", kind="dump"
        ),
        leaf("Toy Trains", "train set|locomotive", toys.vehicle, kind="train"),
        leaf("Toy Airplanes", "plane|glider", toys.plane),
    ),
    *shelf(
        "Toys > Games & Building",
        "toy|game|kids gift",
        "bright",
        leaf("Building Bricks", "brick set|construction blocks", toys.blocks),
        leaf("Jigsaw Puzzles", "puzzle|1000 piece puzzle", toys.puzzle),
        leaf("Puzzle Cubes", "speed cube|magic cube", toys.puzzle, cube=True),
        leaf("Board Games", "family game|checkers set", toys.board_game),
        leaf("Toy Robots", "robot|rc robot", toys.robot),
        leaf("Rubber Ducks", "bath toy|duckies", toys.duck, hues="yellow"),
        leaf("Kites", "delta kite|beach kite", toys.kite),
        leaf("Stacking Rings", "ring stacker|baby toy", toys.stacker),
        leaf("Spinning Tops", "wooden top|gyro toy", toys.stacker, top_toy=True),
    ),
)

_SPORTS = (
    *shelf(
        "Sports > Balls",
        "ball|sports equipment",
        "any",
        leaf("Soccer Balls", "football|match ball", play.ball, hues="white", kind="soccer"),
        leaf("Basketballs", "indoor ball|hoops ball", play.ball, hues="orange", kind="basket"),
        leaf("Footballs", "american football|pigskin", play.ball, hues="gold", kind="football"),
        leaf(
            "Tennis Balls",
            "practice balls|court balls",
            play.ball,
            hues="lime",
            kind="tennis",
            size=0.34,
        ),
        leaf(
            "Golf Balls",
            "distance balls|range balls",
            play.ball,
            hues="white",
            kind="golf",
            size=0.3,
        ),
    ),
    *shelf(
        "Sports > Team & Racket Sports",
        "sports equipment|gear|sport",
        "bright",
        leaf("Tennis Rackets", "racquet|graphite racket", play.racket),
        leaf(
            "Table Tennis Paddles", "ping pong paddle|bat", play.racket, hues="red", kind="paddle"
        ),
        leaf("Baseball Bats", "bat|wood bat", play.club, hues="wood"),
        leaf(
            "Baseball Gloves", "mitt|fielding glove", play.glove_sport, hues="leather", boxing=False
        ),
        leaf("Boxing Gloves", "sparring gloves|mma gloves", play.glove_sport, hues="red"),
        leaf("Hockey Sticks", "ice hockey stick|composite stick", play.club, kind="hockey"),
        leaf("Football Helmets", "helmet|face mask helmet", play.helmet, kind="sport"),
    ),
    *shelf(
        "Sports > Fitness",
        "fitness|gym equipment|workout",
        "any",
        leaf("Dumbbells", "hand weights|free weights", play.weight, hues="black"),
        leaf("Kettlebells", "kettle bell|cast iron weight", play.weight, kind="kettlebell"),
        leaf("Yoga Mats", "exercise mat|fitness mat", play.yoga_mat),
        leaf("Jump Ropes", "skipping rope|speed rope", play.jump_rope),
        leaf("Treadmills", "running machine|walking pad", play.treadmill, hues="black"),
    ),
    *shelf(
        "Sports > Ride & Glide",
        "board|ride on|outdoor sport",
        "bright",
        leaf("Bicycles", "bike|mountain bike|cruiser", play.bicycle),
        leaf("Kick Scooters", "scooter|folding scooter", play.bicycle, scooter=True),
        leaf("Bike Helmets", "cycling helmet|helmet", play.helmet),
        leaf("Skateboards", "skate deck|longboard", play.plank),
        leaf("Surfboards", "foam board|shortboard", play.plank, kind="surfboard"),
        leaf(
            "Roller Skates",
            "quad skates|skates",
            feet.boot,
            hues="any",
            shaft=0.22,
            heel=0.0,
            laces=5,
            sole=0.03,
            gear="wheels",
        ),
    ),
)

LEAVES: tuple[Leaf, ...] = (
    *_TOYS,
    *_SPORTS,
)
