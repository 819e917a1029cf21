"""From the raw TinyStories sample to clean, cased stories, and to wishes that describe them.

The sample is lower-cased, its stories are separated by one line break, and about 3 % of them went through a wrong text
encoding once. What the model should write is ordinary text, so capitals are put back by rule.
"""

import math
import random
import re
from collections import Counter

MOJIBAKE = {
    "â€œ": '"', "â€™": "'", "â€˜": "'", "â€“": " - ", "â€”": " - ", "â€“": " - ", "â€”": " - ", "â€¦": "...", "â€": '"',
    "â«": '"', "â»": '"', "â¡": "", "ã±": "ñ", "ã©": "é", "ã¡": "á", "ã³": "ó",
}
OPENING = re.compile(r"(once|one |there (was|were|lived|once))")
STORY_END = re.compile(r'[.!?]["\']?$')
SAID = (
    "said|says|asked|asks|replied|shouted|shouts|exclaimed|cried|cries|yelled|yells|answered|called|whispered|screamed"
    "|laughed|wondered|thought|squeaked|croaked|chirped|roared|barked|meowed|squealed|giggled|begged|responded|added"
)
AFTER_QUOTE = re.compile(rf"([!?]['\"] )((?:[\w']+ ){{0,3}}(?:{SAID})\b)")
SENTENCE = re.compile(r"""(^|\n|[.!?]['"]? +|(?:^|[\s(])")([a-zñéáó])""")
NOUN = re.compile(
    r"\b(?:a|an|the|his|her|their|my|your) ([a-z]{3,})(?=[.,!?;]| (?:and|or|was|is|are|were|in|on|at|to|of|for|with|that"
    r"|who|had|has|said|could|would|did|but|so|as|from|when|went|came|saw|felt|wanted)\b)"
)
DETERMINER = r"(?:a|an|the|his|her|their|my|your|our|its|this|that|these|some|any|no|every|each|another|one|two|of|very|so)"
NOT_NAMES = set(
    "it him her them out after his the a an to for me you and my their on over back in that this all us your our up down"
    " off from with again at by when loudly so not he she they one two something everyone someone mom dad mommy daddy"
    " mama papa mum mummy grandma grandpa help because just every everybody what where who each its"
    " will may true blue speed jog match youth rhythm repeat search measure".split()
)


def read_stories(path):
    """The cleaned stories of the file, in file order. Each is paragraphs joined by blank lines."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for wrong, right in MOJIBAKE.items():
        text = text.replace(wrong, right)
    text = re.sub(r" +(?=\n)|(?<=\n) +", "", text)
    stories = []
    for piece in re.split(r"(?<!\n)\n(?!\n)", text):
        piece = re.sub(r"\n{2,}", "\n\n", piece.strip())
        # A short piece that does not open like a story is a paragraph of the story before it.
        if stories and len(piece) < 300 and not OPENING.match(piece):
            stories[-1] += "\n\n" + piece if piece else ""
        else:
            stories.append(piece)
    whole = [s for s in stories if len(s) >= 150 and STORY_END.search(s)]
    return restore_capitals(whole)


def restore_capitals(stories):
    """Puts capitals on sentence starts, on `I` and on names (words that follow `named` and take no article)."""
    text = "\n".join(stories)
    seen = Counter(re.findall(r"[a-z]+", text))
    after_determiner = Counter(re.findall(rf"\b{DETERMINER} ([a-z]+)\b", text))
    named = Counter(w for w in re.findall(r"\b(?:named|called) ([a-z]+)", text) if w not in NOT_NAMES)
    names = {w for w, n in named.items() if n >= 2 and after_determiner[w] < 0.08 * seen[w]}

    def cased(story):
        local = {
            w for w in re.findall(r"\bnamed ([a-z]+)", story)
            if w not in NOT_NAMES and not re.search(rf"\b{DETERMINER} {w}\b", story)
        }
        story = re.sub(r"[a-z]+", lambda m: m[0].capitalize() if m[0] in names or m[0] in local else m[0], story)
        story = re.sub(r"\bi\b(?!\.e)", "I", story)
        # `"Why?" asked Tom.` goes on; the mark keeps the sentence rule off it.
        story = AFTER_QUOTE.sub("\\1\0\\2", story)
        return SENTENCE.sub(lambda m: m[1] + m[2].upper(), story).replace("\0", "")

    return [cased(s) for s in stories]


class Wishes:
    """Draws a wish ("a brave cat and a hat") that a given story fulfils."""

    def __init__(self, stories):
        self.document_frequency = Counter(w for s in stories for w in set(re.findall(r"[a-z]+", s)))
        self.count = len(stories)

    def subjects(self, story):
        """Words the story is about: nouns by their article, repeated, rare elsewhere; best first."""
        words = Counter(re.findall(r"[a-z]+", story))
        nouns = set(NOUN.findall(story)) - {"bit", "lot", "time", "other"}
        score = {
            w: words[w] * math.log(self.count / self.document_frequency[w])
            for w in nouns if words[w] >= 2 and self.document_frequency[w] < 0.2 * self.count
        }
        return sorted(score, key=lambda w: (-score[w], w))[:4]

    def draw(self, story, rng: random.Random):
        """A wish as a noun phrase, or None for a story without a clear subject."""
        described = re.search(r"\b(an? (?:[a-z]+ ){1,3}(?:named|called) (?:Mrs?\. )?[A-Z]\w+)", story)
        if described and rng.random() < 0.35:
            return described[1]
        subjects = self.subjects(story)
        if not subjects:
            return None
        chosen = rng.sample(subjects, min(len(subjects), rng.choice((1, 1, 2, 2, 3))))
        if rng.random() < 0.6:
            chosen = [self.phrase(story, w) for w in chosen]
        return chosen[0] if len(chosen) == 1 else ", ".join(chosen[:-1]) + " and " + chosen[-1]

    @staticmethod
    def phrase(story, word):
        """The word as the story introduces it (`a big dog`), or bare."""
        found = re.search(rf"\b(an? (?:[a-z]+ )?{word})\b", story)
        return found[1] if found else word
