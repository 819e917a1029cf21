"""Writes the texts that the default model learns from.

    python stories.py tinystories.txt FOLDER

FOLDER gets `held-out.txt`, one story in fifty, and the others cleaned and with capitals: `stories.txt` four times over,
each time in a new order and half of them under a wish that they fulfil, for `allod pretrain`; four times more for `allod
tune`, those under wishes as prompts with completions in `wishes.jsonl`, the rest in `plain.txt`. Documents of a text are
apart by lines of <|endoftext|>.
"""

import json
import random
import sys
from pathlib import Path

from corpus import Wishes, read_stories

SEED, PASSES, WISH_SHARE = 1, 4, 0.5


def write(path, texts):
    path.write_text("\n<|endoftext|>\n".join(texts) + "\n")


def drawn(stories, passes):
    """Each story with its wish, or with an empty text, in a new order for every pass."""
    wishes = Wishes(stories)
    for number in passes:
        rng = random.Random(f"{SEED} {number}")
        order = list(stories)
        rng.shuffle(order)
        for story in order:
            wish = wishes.draw(story, rng) if rng.random() < WISH_SHARE else None
            yield (f"A story about {wish}.\n\n" if wish else ""), story


def main(source, folder):
    folder = Path(folder)
    stories = read_stories(source)
    random.Random(SEED).shuffle(stories)
    held = len(stories) // 50
    held_out, stories = stories[:held], stories[held:]
    write(folder / "held-out.txt", held_out)
    write(folder / "stories.txt", [wish + story for wish, story in drawn(stories, range(PASSES))])
    later = list(drawn(stories, range(PASSES, 2 * PASSES)))
    write(folder / "plain.txt", [story for wish, story in later if not wish])
    with open(folder / "wishes.jsonl", "w") as file:
        for wish, story in later:
            if wish:
                file.write(json.dumps({"prompt": wish, "completion": story}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
