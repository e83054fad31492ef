"""Final answers in texts, as MetaMath and GSM8K mark them. Pure functions."""

from __future__ import annotations

import math
import re
from fractions import Fraction


def metamath_answer(text: str, mark: str = "The answer is") -> str | None:
    """What follows the last "The answer is:" (MetaMath's form), to the end of its line.

    None where there is nothing. mark: with the colon, the form without it is none.

    >>> metamath_answer("So 3 * 4 = 12. The answer is: 12.")
    '12'
    """
    _, found, answer = text.rpartition(mark)
    lines = answer.lstrip(": ").splitlines()
    return lines[0].strip().rstrip(".").strip() or None if found and lines else None


def metamath_number(text: str) -> int | None:
    """The number by which MetaMath judges GSM8K (eval_gsm8k.py), rounded; None: there is none.

    The first behind the last "The answer is: ", colon and blank included; of a fraction its value.

    >>> [metamath_number(f"The answer is: {said}") for said in ("18 of the 20", "$12.5", "7/2")]
    [18, 12, 4]
    """
    _, found, answer = text.rpartition("The answer is: ")
    match = re.search(r"[-+]?\d*[.,/]?\d+", answer) if found else None
    if match is None:
        return None
    top, slash, bottom = match[0].replace(",", "").partition("/")
    if not slash:
        return None if math.isinf(float(top)) else round(float(top))
    return round(Fraction(int(top), int(bottom) or 1)) if top.lstrip("+-") else None


def metamath_expression(text: str) -> str | None:
    """The answer by which MetaMath judges MATH (eval_math.py), as it is written; None: none.

    What follows the last "The answer is: " up to a full stop at the end of a line.

    >>> metamath_expression("The answer is: $x$.\\nSo it is.")
    '$x$'
    """
    _, found, answer = text.rpartition("The answer is: ")
    return answer.split(".\n")[0].strip().removesuffix(".").strip() if found else None


def gsm8k_number(text: str) -> float | None:
    """The last number of a text, commas left out; None: there is none.

    >>> gsm8k_number("#### 1,234"), gsm8k_number("many")
    (1234.0, None)
    """
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[-1].replace(",", "")) if found else None


def gsm8k_response(answer: str) -> str:
    """A GSM8K solution in the form of MetaMathQA's responses.

    >>> gsm8k_response("2 and 3 are <<2+3=5>>5.\\n#### 5")
    '2 and 3 are 5.\\n#### 5\\nThe answer is: 5'
    """
    solution = re.sub(r"<<.*?>>", "", answer).strip()
    return f"{solution}\nThe answer is: {solution.rpartition('####')[2].strip()}"


def same_answer(given: str | None, wanted: str) -> bool:
    """Whether an answer is the wanted one: as a number where that is one, else letter by letter.

    Case, blanks and dollar signs around it do not count.

    >>> same_answer("1,024.0 apples", "1024"), same_answer("$x+1$", "x+1"), same_answer(None, "1")
    (True, True, False)
    """
    if given is None:
        return False
    if re.fullmatch(r"[$\s]*-?\d[\d,]*(?:\.\d+)?[$\s]*", wanted):
        return gsm8k_number(given) == gsm8k_number(wanted)
    return given.strip("$ ").casefold() == wanted.strip("$ ").casefold()
