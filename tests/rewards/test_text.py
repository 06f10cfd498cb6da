"""Words, letters of choices, and text beside formulas."""

from judging import judged_otherwise

# gold ~ answer, one pair a line
EQUAL = r"""
\$5 ~ 5
\text{odd} ~ odd
\text{odd} ~ \text{Odd}
\text{odd} ~ \mathrm{odd}
\text{odd} ~ \textbf{odd}
\text{Yes} ~ yes
\text{True} ~ \text{true}
B ~ \text{B}
B ~ (B)
(B) ~ B
\text{(B)} ~ B
B ~ b
B ~ \textbf{(B)}
B ~ \mathbf{B}
B ~ \text{B.}
\text{Evelyn} ~ Evelyn
AB ~ AB
\text{DNE} ~ \text{DNE}
\text{undefined} ~ undefined
\text{Spring} ~ \text{spring}
\lim_{n\to\infty}(1+1/n)^n ~ e
\text{(A)} ~ A
A ~ \boxed{A}
\text{E} ~ E
\text{Alice} ~ \text{alice}
\text{Alice and Bob} ~ \text{Bob and Alice}
\text{yes} ~ \text{YES}
\text{no solution} ~ \text{No solution}
\sqrt{-1} ~ i
\$1.50 ~ 1.5
C ~ C. 12
C ~ \text{C. } 12
C ~ C) 12
C ~ C: 12
C ~ (C) 12
C ~ \textbf{(C)}\ 12
C ~ \text{C) }12
(C) ~ C
$a=1$ and $b=2$ ~ a=1, b=2
cx ~ cx \text{ for any constant } c
A ~ A)
A ~ A.
A ~ (A)\ \frac{1}{2}
A ~ A:\ \frac12
A ~ \textbf{A)}\ 5
A ~ \mathrm{(A)}~5\text{ cm}
A ~ \text{(A) } 5 \text{ cm}
"""

DIFFERENT = r"""
\text{odd} ~ \text{even}
\text{odd} ~ \text{not odd}
\text{Yes} ~ No
B ~ C
B ~ A,B
B ~ \text{A or B}
\text{Monday} ~ Tuesday
ABC ~ BCA
|x| ~ x
\text{Tuesday} ~ \text{It is Tuesday}
\text{A} ~ \text{A, B}
\sqrt{a^2} ~ a
D ~ \text{Option D}
\text{Alice} ~ Bob
\text{Alice} ~ \text{Alice and Bob}
\text{no} ~ \text{no solution}
\text{parallel} ~ \text{perpendicular}
-i ~ i
\$1.50 ~ 150
\$1.50 ~ 150\text{ cents}
\text{infinite} ~ \infty
42 ~ \text{forty-two}
C ~ D) 12
C ~ (C) 12 (D) 13
C ~ C, D
C ~ C:D
C ~ \text{C or D}
A ~ A) or B)
-AB ~ AB
AB ~ A-B
AB ~ A:B
AB ~ A'B
P(A|B) ~ P(A)
\lfloor x\rfloor ~ x
\max(x,y) ~ x
n \bmod 3 ~ n
$a$ or not $b$ ~ $a$ or $b$
the maximum is $3$ at $x=1$ ~ 3
\int_0^x t\,dt ~ x
x^2 ~ x\text{ squared}
n-2\lfloor n/2\rfloor ~ n
x \bmod 5 ~ x
\arcsin(\sin x) ~ x
x' ~ x
A^{-1} ~ A
A^T ~ A
AB\to CD ~ ABCD
$x=1$ or not ~ x=1
$x=1$ unless $y=2$ ~ x=1, y=2
\text{no} ~ \text{no, yes}
\text{yes} ~ \text{yes or no}
\text{True} ~ \text{not true}
\nabla f ~ f
\bar{x} ~ x
\overline{z} ~ z
z^* ~ z
\neg p ~ p
"""


def test_equal_text_are_correct(grader):
    assert judged_otherwise(grader, EQUAL, reward=1.0) == []


def test_different_text_are_wrong(grader):
    assert judged_otherwise(grader, DIFFERENT, reward=0.0) == []
