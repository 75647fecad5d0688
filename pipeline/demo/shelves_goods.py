"""Shelf tables: beauty, grocery, pets and office. One row a leaf; see `taxonomy.leaf`."""

from pipeline.demo import draw_accessories as acc
from pipeline.demo import draw_goods as goods
from pipeline.demo import draw_grocery as grocery
from pipeline.demo import draw_office as office
from pipeline.demo import draw_play as play
from pipeline.demo import draw_tools as tools
from pipeline.demo.taxonomy import Leaf, leaf, shelf

_BEAUTY = (
    *shelf(
        "Beauty > Makeup",
        "makeup|cosmetics|beauty",
        "any",
        leaf("Lipsticks", "lip color|matte lipstick", goods.lipstick, hues="red"),
        leaf("Nail Polish", "nail lacquer|gel polish", goods.lipstick, kind="polish"),
        leaf("Eyeshadow Palettes", "eye palette|shadow palette", goods.palette, hues="red"),
        leaf("Makeup Brushes", "blush brush|brush set", goods.groomer, hues="black", kind="makeup"),
    ),
    *shelf(
        "Beauty > Hair & Body",
        "personal care|care|beauty",
        "any",
        leaf(
            "Shampoo",
            "hair wash|cleansing shampoo",
            goods.bottle,
            cap="flip",
            sign="drop",
            wide=0.36,
        ),
        leaf("Bar Soap", "bath bar|soap", goods.soap, hues="linen"),
        leaf(
            "Perfumes",
            "fragrance|eau de parfum",
            goods.bottle,
            hues="drink",
            cap="ball",
            wide=0.5,
            tall=0.48,
            shoulder=0.02,
            clear=True,
        ),
        leaf("Sunscreen", "sunblock|spf 50 lotion", goods.tube, hues="yellow", sign="sun"),
        leaf(
            "Toothpaste",
            "whitening paste|fluoride gel",
            goods.tube,
            hues="white",
            cap_down=False,
            paste=True,
        ),
        leaf("Toothbrushes", "soft bristle brush|brush", goods.groomer, kind="toothbrush"),
        leaf("Razors", "shaving razor|safety razor", goods.groomer, kind="razor"),
        leaf("Hair Brushes", "paddle brush|brush", goods.groomer, kind="brush"),
        leaf("Hair Dryers", "blow dryer|ionic dryer", tools.drill, kind="dryer"),
    ),
    *shelf(
        "Health > First Aid & Vitamins",
        "health|wellness|care",
        "any",
        leaf(
            "Vitamins",
            "multivitamin|supplement gummies",
            goods.bottle,
            hues="gold",
            wide=0.44,
            tall=0.56,
            neck=0.34,
            shoulder=0.03,
            sign="leaf",
        ),
        leaf("First Aid Kits", "emergency kit|medical kit", tools.toolbox, hues="red", kit=True),
    ),
)

_GROCERY = shelf(
    "Grocery > Pantry & Drinks",
    "food|pantry|grocery|snack",
    "any",
    leaf("Breakfast Cereal", "corn flakes|granola", goods.carton, sign="wheat"),
    leaf(
        "Canned Soup",
        "soup|tomato soup",
        goods.carton,
        hues="red",
        kind="can",
        sign="fruit",
        wide=0.52,
        tall=0.76,
    ),
    leaf(
        "Milk",
        "whole milk|oat milk",
        goods.carton,
        hues="white",
        kind="gable",
        sign="drop",
        wide=0.42,
    ),
    leaf(
        "Potato Chips",
        "crisps|chips",
        goods.carton,
        hues="bright",
        kind="pillow",
        sign="sun",
        wide=0.64,
        tall=0.82,
    ),
    leaf(
        "Coffee Beans",
        "ground coffee|espresso roast",
        goods.carton,
        hues="leather",
        kind="pouch",
        sign="bean",
        wide=0.52,
    ),
    leaf("Chocolate Bars", "dark chocolate|candy bar", grocery.chocolate),
    leaf(
        "Wine",
        "red wine|cabernet",
        goods.bottle,
        hues="drink",
        wide=0.28,
        tall=0.58,
        neck=0.1,
        shoulder=0.14,
        cap="cork",
        sign="star",
    ),
    leaf(
        "Ketchup",
        "tomato sauce|hot sauce",
        goods.bottle,
        hues="red",
        wide=0.32,
        tall=0.64,
        cap="flip",
        shoulder=0.14,
        sign="fruit",
    ),
    leaf("Apples", "fresh apples|fruit", grocery.fruit, hues="red"),
    leaf("Bananas", "fresh bananas|fruit", grocery.fruit, kind="banana", hues="yellow"),
    leaf(
        "Laundry Detergent",
        "washing liquid|laundry soap",
        goods.bottle,
        hues="bright",
        wide=0.56,
        tall=0.64,
        neck=0.22,
        cap="dome",
        sign="drop",
    ),
    leaf(
        "Spray Cleaner",
        "all purpose cleaner|window spray",
        goods.bottle,
        hues="bright",
        wide=0.36,
        tall=0.6,
        cap="spray",
        sign="star",
    ),
)

_PETS = shelf(
    "Pets > Pet Supplies",
    "pet|pet supplies|dog",
    "any",
    leaf(
        "Dog Food", "kibble|puppy food", goods.carton, kind="sack", sign="paw", wide=0.56, tall=0.84
    ),
    leaf("Dog Bones", "chew toy|dental chew", grocery.bone, hues="bone"),
    leaf("Dog Collars", "pet collar|collar", acc.belt, hues="bright", collar=True),
    leaf("Dog Beds", "pet bed|cuddler bed", grocery.pet_bed),
    leaf("Dog Houses", "kennel|outdoor dog house", play.tent, hues="wood", house=True),
    leaf("Cat Trees", "cat tower|scratching post", grocery.cat_tree, hues="linen"),
    leaf("Fish Tanks", "aquarium|betta tank", grocery.cage, hues="orange"),
)

_OFFICE = shelf(
    "Office > Office Supplies",
    "school supplies|office supplies|stationery",
    "any",
    leaf("Pencils", "no 2 pencils|graphite pencils", office.pencil, hues="yellow"),
    leaf("Ballpoint Pens", "pens|gel pens", office.pencil, kind="pen"),
    leaf("Spiral Notebooks", "notebook|college ruled notebook", office.notebook),
    leaf("Novels", "paperback|hardcover book", office.notebook, kind="book"),
    leaf("Sticky Notes", "memo pads|note pad", office.notebook, hues="yellow", kind="sticky"),
    leaf("Staplers", "desktop stapler|stapling set", office.stapler),
    leaf("Scissors", "craft scissors|office shears", tools.wrench, hues="bright", kind="scissors"),
    leaf("Rulers", "12 inch ruler|straight edge", tools.level, hues="yellow", ruler=True),
    leaf("Calculators", "scientific calculator|desk calculator", office.calculator, hues="tech"),
    leaf("Globes", "world globe|desk globe", office.globe, hues="denim"),
)

LEAVES: tuple[Leaf, ...] = (
    *_BEAUTY,
    *_GROCERY,
    *_PETS,
    *_OFFICE,
)
