"""Shelf tables: home, tools, garden and camping. One row a leaf; see `taxonomy.leaf`."""

from pipeline.demo import draw_appliances as machines
from pipeline.demo import draw_decor as decor
from pipeline.demo import draw_play as play
from pipeline.demo import draw_tools as tools
from pipeline.demo.taxonomy import Leaf, leaf, shelf

_HOME = (
    *shelf(
        "Home > Lighting",
        "lamp|light|lighting",
        "any",
        leaf("Table Lamps", "bedside lamp|accent lamp", decor.lamp),
        leaf("Pendant Lights", "hanging lamp|ceiling light", decor.lamp, kind="pendant"),
        leaf("Desk Lamps", "task lamp|reading light", decor.lamp, kind="desk"),
        leaf("Light Bulbs", "led bulb|a19 bulb", decor.bulb, hues="yellow"),
        leaf("Candles", "scented candle|jar candle", decor.candle),
    ),
    *shelf(
        "Home > Decor",
        "decor|home accent|wall art",
        "any",
        leaf("Throw Pillows", "cushion|accent pillow", decor.pillow),
        leaf("Wall Clocks", "clock|kitchen clock", decor.clock),
        leaf("Picture Frames", "photo frame|gallery frame", decor.frame, hues="wood"),
        leaf("Vases", "flower vase|ceramic vase", decor.vase, plant="flowers"),
        leaf("Artificial Plants", "faux plant|fake greenery", decor.vase, plant="leaves", pot=True),
        leaf("Area Rugs", "carpet|runner rug", decor.rug),
        leaf("Curtains", "drapes|window panels", decor.curtain, hues="linen"),
        leaf("Bath Towels", "towel set|cotton towels", decor.towel, hues="linen"),
    ),
    *shelf(
        "Home > Cleaning",
        "cleaning tool|household|janitorial",
        "bright",
        leaf("Brooms", "sweeper|push broom", tools.long_tool, kind="broom"),
    ),
)

_TOOLS = (
    *shelf(
        "Tools > Hand Tools",
        "tool|hand tool|hardware",
        "bright",
        leaf("Hammers", "claw hammer|framing hammer", tools.hammer),
        leaf("Axes", "hatchet|splitting axe", tools.hammer, hues="red", kind="axe"),
        leaf("Screwdrivers", "phillips driver|screw driver", tools.driver),
        leaf("Pliers", "needle nose pliers|gripping tool", tools.wrench, kind="pliers"),
        leaf("Tape Measures", "measuring tape|25 ft tape", tools.tape_measure),
        leaf("Spirit Levels", "bubble level|torpedo level", tools.level),
    ),
    *shelf(
        "Tools > Power Tools",
        "power tool|tool|cordless",
        "bright",
        leaf("Cordless Drills", "drill driver|impact driver", tools.drill),
        leaf("Circular Saws", "skill saw|power saw", tools.circular),
        leaf("Chainsaws", "gas saw|tree saw", tools.chainsaw),
    ),
    *shelf(
        "Tools > Hardware & Paint",
        "hardware|supplies|home improvement",
        "metal",
        leaf("Padlocks", "lock|combination lock", tools.padlock),
        leaf("Paint Brushes", "trim brush|sash brush", tools.driver, hues="wood", kind="brush"),
        leaf("Paint Cans", "interior paint|latex paint", tools.paint_can, hues="any"),
        leaf("Toolboxes", "tool chest|tool case", tools.toolbox, hues="bright"),
        leaf("Ladders", "step ladder|step stool", tools.ladder, hues="metal"),
    ),
    *shelf(
        "Garden > Garden Tools",
        "garden tool|yard|outdoor",
        "green",
        leaf("Shovels", "spade|digging shovel", tools.long_tool, hues="steel"),
        leaf(
            "Pruning Shears", "pruners|garden clippers", tools.wrench, hues="bright", kind="shears"
        ),
        leaf(
            "Watering Cans",
            "plant waterer|sprinkling can",
            machines.kettle,
            hues="bright",
            rose=True,
        ),
        leaf("Garden Hoses", "water hose|expandable hose", tools.hose),
        leaf("Lawn Mowers", "push mower|grass cutter", tools.mower, hues="red"),
        leaf("Wheelbarrows", "yard cart|garden cart", tools.barrow),
        leaf("Garden Gnomes", "lawn gnome|garden statue", tools.gnome, hues="red"),
    ),
)

_CAMP = shelf(
    "Outdoors > Camping",
    "camping gear|outdoor gear",
    "bright",
    leaf("Tents", "camping tent|dome tent", play.tent),
    leaf("Sleeping Bags", "mummy bag|camp bedding", play.sleeping_bag),
    leaf("Coolers", "ice chest|cooler box", play.cooler),
    leaf("Lanterns", "camp light|led lantern", play.lantern),
    leaf("Flashlights", "torch|led flashlight", play.lantern, hues="black", torch=True),
    leaf("Fishing Rods", "fishing pole|rod and reel", play.club, kind="rod"),
)

LEAVES: tuple[Leaf, ...] = (
    *_HOME,
    *_TOOLS,
    *_CAMP,
)
