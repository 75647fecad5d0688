"""Shelf tables: electronics and music. One row a leaf; see `taxonomy.leaf`."""

from pipeline.demo import draw_accessories as acc
from pipeline.demo import draw_tech as tech
from pipeline.demo import draw_toys as toys
from pipeline.demo.taxonomy import Leaf, leaf, shelf

_TECH = (
    *shelf(
        "Electronics > Phones & Tablets",
        "phone|mobile device|device",
        "tech",
        leaf("Smartphones", "cell phone|unlocked phone", tech.screen, wide=0.4, tall=0.86),
        leaf("Phone Cases", "phone cover|case for iPhone|bumper case", tech.case, hues="any"),
        leaf(
            "Tablets",
            "android tablet|10 inch tablet",
            tech.screen,
            wide=0.64,
            tall=0.84,
            bezel=0.05,
        ),
    ),
    *shelf(
        "Electronics > Computers",
        "computer|pc|computer accessory",
        "tech",
        leaf(
            "Laptops", "notebook computer|ultrabook", tech.screen, wide=0.7, tall=0.46, stand="keys"
        ),
        leaf("Desktop Computers", "pc tower|gaming pc", tech.tower),
        leaf("Keyboards", "mechanical keyboard|wireless keyboard", tech.keyboard),
        leaf("Computer Mice", "wireless mouse|optical mouse", tech.mouse),
        leaf("Printers", "inkjet printer|all in one printer", tech.printer),
        leaf("USB Flash Drives", "thumb drive|memory stick", tech.stick_drive, hues="any"),
    ),
    *shelf(
        "Electronics > Audio",
        "audio|sound|bluetooth",
        "tech",
        leaf("Over-Ear Headphones", "headphones|noise cancelling headphones", tech.headphones),
        leaf("Earbuds", "in-ear headphones|wireless buds", tech.earbuds),
        leaf(
            "Bluetooth Speakers",
            "portable speaker|wireless speaker",
            tech.speaker,
            hues="any",
        ),
        leaf("Microphones", "mic|vocal microphone", tech.microphone),
    ),
    *shelf(
        "Electronics > TV & Gaming",
        "tv|video|gaming",
        "tech",
        leaf(
            "Televisions",
            "smart tv|led tv|flat screen",
            tech.screen,
            wide=0.96,
            tall=0.58,
            bezel=0.02,
            stand="feet",
        ),
        leaf("Projectors", "home theater projector|video projector", tech.projector),
        leaf("Remote Controls", "tv remote|replacement remote", tech.remote),
        leaf("Game Controllers", "gamepad|wireless controller", tech.controller, hues="any"),
        leaf(
            "Handheld Consoles", "game console|portable gaming system", tech.console, hues="bright"
        ),
        leaf("VR Headsets", "virtual reality goggles|vr glasses", tech.goggles),
    ),
    *shelf(
        "Electronics > Cameras",
        "camera|photo|photography",
        "tech",
        leaf("DSLR Cameras", "digital camera|mirrorless camera", tech.camera),
        leaf("Camera Lenses", "zoom lens|prime lens", tech.camera, kind="lens"),
        leaf("Tripods", "camera stand|tripod mount", tech.tripod),
        leaf("Drones", "quadcopter|camera drone", tech.drone),
    ),
    *shelf(
        "Electronics > Power & Wearables",
        "electronics|gadget|accessory",
        "tech",
        leaf("Smartwatches", "fitness watch|smart watch", acc.watch, hues="any", face="square"),
        leaf("Power Strips", "surge protector|extension cord", tech.power_strip),
    ),
)

_MUSIC = shelf(
    "Music > Instruments",
    "instrument|music|musical instrument",
    "wood",
    leaf("Acoustic Guitars", "guitar|dreadnought", toys.guitar),
    leaf("Violins", "fiddle|student violin", toys.guitar, hues="gold", kind="violin"),
    leaf("Drum Kits", "drum set|5 piece kit", toys.drum, hues="bright"),
    leaf("Trumpets", "brass horn|cornet", toys.brass_horn, hues="yellow"),
    leaf(
        "Piano Keyboards", "digital piano|61 key keyboard", tech.keyboard, hues="black", piano=True
    ),
)

LEAVES: tuple[Leaf, ...] = (
    *_TECH,
    *_MUSIC,
)
