"""Figure 3: a sample whose end of thinking was ignored (eval/wait_example.py), set as text."""

from collections.abc import Sequence

from eval.material import Material
from eval.plotting import COLOURS, GREY
from eval.wait_example import WaitExample

NEAR = 3  # lines shown around what was forced in Figure 3
TEXT_COLUMNS, TEXT_SIZE = 92, 6.5  # of its text: characters a line, points
CHARACTER, LINE = 0.602 * TEXT_SIZE / 72, 0.14  # inches: the width of one (DejaVu Sans Mono), the height of a line


def figure_3(material: Material):
    """A sample whose end of thinking was ignored: the question, what was thought, what was forced in, the answer."""
    if not material.waits:
        return None
    from matplotlib.figure import Figure

    lines = [line for example in material.waits for line in text_lines(example)]
    longest = max(sum(len(text) for text, _ in line) for line in lines)
    # 4% more: a .png sets letters on whole pixels
    width, height = 1.04 * longest * CHARACTER + 0.2, LINE * len(lines) + 0.15
    figure = Figure(figsize=(width, height))
    looks = {"head": {"color": GREY}, "text": {}, "answer": {"color": COLOURS[0]},
             "forced": {"color": COLOURS[1], "weight": "bold"}}  # fmt: skip
    for row, spans in enumerate(lines):
        column = 0
        for text, kind in spans:
            x, y = 0.1 + CHARACTER * column, height - 0.075 - LINE * (row + 0.5)
            figure.text(x / width, y / height, text, va="center", parse_math=False, family="DejaVu Sans Mono",
                        fontsize=TEXT_SIZE, **looks[kind])  # fmt: skip
            column += len(text)
    return figure


Span = tuple[str, str]  # text and kind: head, text, forced, answer


def text_lines(example: WaitExample) -> list[list[Span]]:
    """The example as lines of at most TEXT_COLUMNS characters."""
    verdict = {True: "right", False: "wrong", None: "not graded"}
    origin = f"{example.origin['run']}, {example.origin['cell']}, question {example.origin['question_id']}"
    told = f"without ignored ends: {verdict[example.before]}; with them: {verdict[example.after]}\n{origin}"
    lines = [[("question", "head")], *_wrapped([(example.question, "text")])]
    for phase, title, kind in (("thinking", "thinking (forced: bold)", "text"), ("answer", "answer", "answer")):
        pieces = [piece for piece in example.pieces if piece.phase == phase]
        spans = [(piece.text, "forced" if piece.source == "forced" else kind) for piece in pieces]
        lines += [[(title, "head")], *_shortened(_wrapped(spans))]
    return [*lines, *_wrapped([(told, "head")])]


def _wrapped(spans: Sequence[Span]) -> list[list[Span]]:
    """Lines of spans, broken at newlines and where a line is full; blank lines are left out."""
    lines: list[list[Span]] = [[]]
    for text, kind in spans:
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append([])
            shown = "".join(c if c.isprintable() else "\ufffd" for c in part)
            while shown:
                room = TEXT_COLUMNS - sum(len(own) for own, _ in lines[-1])
                if room == 0:
                    lines.append([])
                    continue
                lines[-1].append((shown[:room], kind))
                shown = shown[room:]
    return [line for line in lines if "".join(text for text, _ in line).strip()]


def _shortened(lines: list[list[Span]]) -> list[list[Span]]:
    """Of many lines the first and last, and those around what was forced; how many are left out is said."""
    forced = [i for i, line in enumerate(lines) if any(kind == "forced" for _, kind in line)]
    near = [-1, len(lines), *forced]
    kept = [i for i in range(len(lines)) if min(abs(i - j) for j in near) <= NEAR]
    shown: list[list[Span]] = []
    for before, i in zip([-1, *kept], kept, strict=False):
        if i - before > 1:
            shown.append([(f"[{i - before - 1} lines]", "head")])
        shown.append(lines[i])
    return shown
