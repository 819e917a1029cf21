"""Writes the two texts that `allod pretrain` makes the default model from.

    python stories.py tinystories.txt FOLDER

FOLDER gets `held-out.txt`, one story in fifty, and `stories.txt`: the others, cleaned and with capitals, four times over,
each time in a new order and half of them under a wish that they fulfil. Documents are apart by lines of <|endoftext|>.
"""

import random
import sys
from pathlib import Path

from corpus import Wishes, read_stories

SEED, PASSES, WISH_SHARE = 1, 4, 0.5


def write(path, texts):
    path.write_text("\n<|endoftext|>\n".join(texts) + "\n")


def main(source, folder):
    folder = Path(folder)
    stories = read_stories(source)
    random.Random(SEED).shuffle(stories)
    held = len(stories) // 50
    held_out, stories = stories[:held], stories[held:]
    wishes, texts = Wishes(stories), []
    for number in range(PASSES):
        rng = random.Random(f"{SEED} {number}")
        order = list(stories)
        rng.shuffle(order)
        for story in order:
            wish = wishes.draw(story, rng) if rng.random() < WISH_SHARE else None
            texts.append(f"A story about {wish}.\n\n{story}" if wish else story)
    write(folder / "held-out.txt", held_out)
    write(folder / "stories.txt", texts)


if __name__ == "__main__":
    main(*sys.argv[1:])
