"""The rules R1 to R8 on answers as models write them."""

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dars_jax.rewards import MathGrader, Verdict, last_box
from dars_jax.rewards.fast_path import decide

# gold | answer, one pair a line.
RIGHT = r"""
0.5 | \frac12
\frac13 | 0.\overline{3}
\frac16 | 0.1\overline{6}
0.28 | 28\%
28\% | \frac{7}{25}
28\% | 0.28
33\frac{1}{3}\% | \frac13
12.5\% | 12.5 \%
5\% | 5\text{ percent}
5\text{ cm} | 5
5 | 5\text{ cm}
5 | 5\,\mathrm{cm}
5 | 5~\mathrm{m}
5 | 5 \, \text{m/s}
5\text{ m/s} | 5
5 | 5\text{ m/s}^2
9.8 | 9.8\,\mathrm{m/s^2}
9.8 | 9.8\ \mathrm{m}\cdot\mathrm{s}^{-2}
36 | 36\text{ square units}
36 | 36\text{ units}^2
36\pi | 36\pi\text{ cm}^3
10 | 10 \text{ cm}^{2}
10 | 10\text{ sq. ft.}
3 | 3\text{ hours}
25 | 25\text{ students}
25 | 25 students
5 | 5 cm
\$5 | 5
5 | \$5.00
5 | \text{\$5}
5 | 5\text{ dollars}
1000 | \$1,000
1000 | 1,000
1000000 | 1,000,000
1,000 | 1000
10,080 | 10080
10080 | 10{,}080
1000000 | 1\,000\,000
1000000 | 1 000 000
12345 | 12,345.0
100,200,300 | 300,200,100
45 | 45^\circ
45^\circ | 45
45^\circ | 45^{\circ}
45^\circ | 45\degree
45^\circ | 45°
25 | 25^\circ\mathrm{C}
\frac{1}{2} | \sin 30^\circ
\sqrt{3} | \tan 60^\circ
\frac12 | \cos(60^\circ)
\frac{\sqrt3}{2} | \sin\left(\frac{\pi}{3}\right)
x=5 | 5
5 | x=5
5 | x = 5
5 | 5 = x
\frac12 | x=\frac{1}{2}=0.5
5 | x \approx 5
y=2x+3 | 2x-y+3=0
y=2x+3 | y-2x=3
y=2x+3 | 2x+3
2x+3 | y=2x+3
2x+3 | f(x)=2x+3
f(x)=2x+3 | 2x+3
x^2+y^2=4 | y^2+x^2-4=0
\frac{x^2}{4}+\frac{y^2}{9}=1 | 9x^2+4y^2=36
x=2y | y=\frac{x}{2}
x=1,y=2 | y=2,x=1
x=1,y=2 | (1,2)
(1,2) | x=1,y=2
(x,y)=(1,2) | (1,2)
(1,2) | (x,y)=(1,2)
(1,2) | \left(1, 2\right)
(1,2) | (1.0,\frac{4}{2})
(1,2),(3,4) | (3,4),(1,2)
\{1,2,3\} | \{3,2,1\}
\{1,2,3\} | 1,2,3
1,2,3 | \{3,1,2\}
1,2 | 1 \text{ and } 2
1,2 | 1 \text{ or } 2
1,2 | x=1 \text{ or } x=2
1,2 | x=1, x=2
1,2 | x_1=1, x_2=2
1,2 | x \in \{1,2\}
\pm 2 | 2,-2
\pm 2 | x=\pm 2
1\pm\sqrt5 | 1+\sqrt5, 1-\sqrt5
\frac{1\pm\sqrt5}{2} | \frac{1-\sqrt{5}}{2},\frac{1+\sqrt{5}}{2}
[0,1) | [0, 1)
(0,1)\cup(2,3) | (2,3)\cup(0,1)
(-\infty,3) | x<3
x<3 | (-\infty,3)
[2,5] | 2\le x\le 5
2\le x\le 5 | [2,5]
2<x\le5 | x\in(2,5]
x>2 | 2<x
x\ge 2 | x \geqslant 2
2x>4 | x>2
(-\infty,-1)\cup(1,\infty) | x<-1 \text{ or } x>1
(-2,3) | x>-2 \text{ and } x<3
\mathbb{R}\setminus\{1\} | (-\infty,1)\cup(1,\infty)
x\neq 1 | \mathbb{R}\setminus\{1\}
\mathbb{R} | (-\infty,\infty)
(-\infty,\infty) | \mathbb{R}
[0,\infty) | [0,+\infty)
\emptyset | \varnothing
\emptyset | \{\}
[1-\sqrt8,2] | [1-2\sqrt2,2]
[a,b] | [a,b]
\text{odd} | odd
\text{odd} | \text{Odd}
\text{odd} | \mathrm{odd}
\text{odd} | \textbf{odd}
\text{Yes} | yes
\text{True} | \text{true}
B | \text{B}
B | (B)
(B) | B
\text{(B)} | B
B | b
B | \textbf{(B)}
B | \mathbf{B}
B | \text{B.}
B,C | C,B
\text{Evelyn} | Evelyn
\text{June 5} | June 5
AB | AB
xy | yx
2xy | 2yx
x+y | y+x
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{bmatrix}1&2\\3&4\end{bmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}
\begin{pmatrix}1/2&2\\3&4\end{pmatrix} | \left(\begin{array}{cc}0.5&2\\3&4\end{array}\right)
1011_2 | 1011_{2}
1011_2 | 1011_{\text{two}}
1011_2 | (1011)_2
1A_{16} | 1A_{16}
3\times10^8 | 300000000
3\times10^8 | 3e8
3e8 | 3\times10^8
3.0 \times 10^{-5} | 0.00003
2\frac12 | \frac52
2\frac12 | 2.5
2\frac{1}{2} | 2 1/2
\frac52 | 2\tfrac{1}{2}
\frac52 | 5/2
-\frac12 | \frac{-1}{2}
-\frac12 | \frac{1}{-2}
-\frac12 | -0.5
\frac12 | \frac24
\frac{2}{\sqrt2} | \sqrt2
\frac{1}{\sqrt2} | \frac{\sqrt2}{2}
\sqrt[3]{8} | 2
\sqrt[3]{16} | 2\sqrt[3]{2}
\sqrt{50} | 5\sqrt2
6\pi | 6π
\sqrt3 | √3
\log_2 8 | 3
\log_2 3 | \frac{\ln 3}{\ln 2}
\ln 6 | \ln 2+\ln3
2\ln x | \ln x^2
e^{2x} | (e^x)^2
e^{i\pi} | -1
\sin^2x+\cos^2x | 1
\tan x | \frac{\sin x}{\cos x}
\arctan 1 | \frac{\pi}{4}
\sin^{-1}(1) | \frac{\pi}{2}
(x+1)^2 | x^2+2x+1
(x-1)(x+1) | x^2-1
x^2-1 | (x-1)(x+1)
\frac{x^2-1}{x-1} | x+1
\sqrt{x^2} | |x|
\binom{n}{2} | \frac{n(n-1)}{2}
\binom{5}{2} | 10
5! | 120
2^{n+1} | 2\cdot 2^n
(-1)^n | (-1)^{n+2}
\sum_{k=1}^n k | \frac{n(n+1)}{2}
\sum_{k=0}^{\infty}\frac{1}{2^k} | 2
\int_0^1 x^2\,dx | \frac13
\frac{x^3}{3}+C | C+\frac{x^3}{3}
\lfloor 3.7\rfloor | 3
3+4i | 4i+3
\frac{1+i}{2} | \frac12+\frac{i}{2}
7:32 | 7/32
7:32 | 14:64
2:30\text{ p.m.} | 2:30\text{ pm}
2:30 | 2:30\text{ PM}
2^{99} | 633825300114114700748351602688
\frac{1}{2^{99}} | 2^{-99}
123456789012345678901234567890 | 123456789012345678901234567890
0 | 0.0
0 | -0
5 | +5
5 | 05
025 | 25
5 | 5.
.5 | 0.5
5 | ((5))
5 | \text{5}
5 | \mathbf{5}
5 | {5}
5 | $5$
5 | 5+0
5 | 4+1
5 | 2\cdot 3-1
5 | \frac{10}{2}
4 | 2^2
0.1 | \frac{1}{10}
\infty | \infty
\infty | +\infty
\text{DNE} | \text{DNE}
\text{undefined} | undefined
3 \text{ and } 5 | 3,5
\angle ABC=30^\circ | 30^\circ
AB=5 | 5
5 | AB = 5
P(A)=\frac12 | 0.5
\text{Area}=5 | 5
5 | \text{Area} = 5
x=\frac{\pi}{6}+k\pi | \frac{\pi}{6}+k\pi
a_n=2n+1 | 2n+1
2n+1 | a_n = 2n+1
x^{10} | x^10
\frac{\sqrt{3}}{3} | \frac{1}{\sqrt{3}}
5\text{ million} | 5000000
5000000 | 5\text{ million}
\frac{3}{4}\text{ cup} | 0.75
80\text{ km/h} | 80
80\text{ km/h} | 80 \text{ km per hour}
13\text{ cm} | 13\text{ centimeters}
\text{Spring} | \text{spring}
4x^2-1 | (2x-1)(2x+1)
-1+i\sqrt3 | -1+\sqrt{3}i
3,5,7 | 3, 5, and 7
3,5,7 | 3;5;7
(3,5) | (3, 5)
\sqrt{2}+1 | 1+\sqrt{2}
1-\frac{1}{e} | \frac{e-1}{e}
\cos 2x | 1-2\sin^2 x
10\% | 0.1
150\% | \frac{3}{2}
0.5\% | 0.005
\dfrac{4}{5} | \frac{4}{5}
\left[-1,1\right] | [-1,1]
k \ge 0 | k\geq0
\frac{1}{2}x | \frac{x}{2}
x/2 | \frac{x}{2}
\overline{AB} | \overline{AB}
\triangle ABC | \triangle ABC
\vec{a} | \vec{a}
\begin{vmatrix}1&2\\3&4\end{vmatrix} | -2
\lim_{n\to\infty}(1+1/n)^n | e
2+2\sqrt{2}, 2-2\sqrt2 | 2\pm2\sqrt{2}
\frac{5}{6} | \frac{5}{6}\approx 0.83
3\sqrt{13} | 3 \sqrt{13}
13 | 13 \text{ (people)}
2,3,5,7 | \text{2, 3, 5, 7}
[1,3] | 1 \leq a \leq 3
3x^2+2x-1=0 | 6x^2+4x-2=0
x>1 | (1, \infty)
-\frac{\sqrt{3}}{2} | \frac{-\sqrt{3}}{2}
0.125 | 1/8
\frac{13}{4} | 3.25
\frac{13}{4} | 3\frac{1}{4}
2\sqrt{3} | \sqrt{12}
1{,}234.5 | 1234.5
1.5\times10^{-3} | 0.0015
\{1\} | 1
1 | \{1\}
3 | 3\sqrt{1}
\frac{a}{b} | a/b
\frac{x+1}{2} | \frac{1}{2}(x+1)
(2,3) | x=2, y=3
\frac{\pi}{4} | \arctan(1)
8\pi\text{ cm}^2 | 8\pi
\text{(A)} | A
A | \boxed{A}
\text{E} | E
2,-2 | \pm2
\{2,-2\} | x=\pm 2
\frac{3}{4} | 75\%
0.75 | 75\%
1,2,3 | (1,2,3)
5\times 10^{-3} | 0.005
6.02\times10^{23} | 6.02 \cdot 10^{23}
x\in(0,1) | 0<x<1
x\le -2\text{ or }x\ge 2 | (-\infty,-2]\cup[2,\infty)
(-\infty,-2]\cup[2,\infty) | x\ge2, x\le-2
\frac{1}{2},\frac{1}{3} | 0.5 and 1/3
\text{Alice} | \text{alice}
\text{Alice and Bob} | \text{Bob and Alice}
\text{yes} | \text{YES}
\text{no solution} | \text{No solution}
x^2-5x+6=0 | (x-2)(x-3)=0
y=\frac{1}{2}x+1 | x-2y+2=0
x^2+y^2=1 | x^2+y^2-1=0
f(x)=x+1 | f(x)=1+x
\sqrt{-1} | i
(1+i)^2 | 2i
\log_{10} 100 | 2
\lg 100 | 2
\ln e | 1
e^{\ln 5} | 5
\log_3 9 | 2
\frac{\ln 8}{\ln 2} | 3
2^{10} | 1024
1024 | 2^{10}
2^{-3} | 0.125
0.\overline{9} | 1
0.\overline{36} | \frac{4}{11}
\frac{22}{7} | 3\frac17
\tan\theta | \frac{\sin\theta}{\cos\theta}
\cot x | \frac{1}{\tan x}
\sin(2x) | 2 \sin(x) \cos(x)
\sin^2 x | (\sin x)^2
\begin{bmatrix} 1 \\ 2 \end{bmatrix} | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\begin{pmatrix} x^2 & 1\\0&1\end{pmatrix} | \begin{pmatrix} x\cdot x & 1\\ 0&1\end{pmatrix}
\langle 1,2\rangle | \langle 1, 2 \rangle
1:2:3 | 2:4:6
3:00 | 3:00\text{ PM}
\$1.50 | 1.5
€5 | 5
5\,\text{kg} | 5
\frac{5}{2}\text{ hours} | 2.5\text{ hours}
2\text{ hours} | 2\text{ hr}
16\text{ ft}^2 | 16 \text{ square feet}
(-1)^{n+1} | (-1)^{n-1}
n^2+n | n(n+1)
\binom{10}{3} | 120
\sum_{i=1}^{5} i^2 | 55
55 | \sum_{k=1}^{10} k
\prod_{k=1}^{5} k | 120
\lfloor \pi \rfloor | 3
|{-3}| | 3
|-3| | 3
\max(2,3) | 3
\gcd(12,18) | 6
1+\frac{1}{1+\frac{1}{2}} | \frac53
5\% | 0.05
\frac{1}{3}\% | \frac{1}{300}
\infty | +\infty
\varnothing | \emptyset
k\pi, k\in\mathbb{Z} | k\pi,\ k \in \mathbb{Z}
\frac{1}{2}bh | \frac{bh}{2}
ab+bc+ca | ca+ab+bc
x_1+x_2 | x_2+x_1
42 | 42\quad
42 | \mathbf{42}
42 | \underline{42}
42 | 42,
42 | (42)
42 | [42]
42 | 42/1
42 | 84/2
42 | 4.2\times 10
42 | 4.2\times 10^1
42 | 0.42\times 10^2
42 | 42_{10}
42 | 101010_2
""".strip().splitlines()

WRONG = r"""
\frac{1}{3} | 0.333
\frac{1}{3} | 0.3333333333
28 | 0.28
28\% | 2800\%
15\text{ minutes} | 15\text{ hours}
1 | 1,000
45^\circ | \frac{\pi}{4}
x=5 | y=5
5 | 2x=5
5 | x=4
\frac12 | x=\frac{1}{2}=0.6
x^2+y^2=4 | 4
x=1,y=2 | x=2,y=1
(1,2) | x=2,y=1
(1,2) | (x,y)=(2,1)
(1,2) | \{1,2\}
(1,2) | [1,2]
(1,2) | (1,2]
(1,2,3) | (1,3,2)
(1,2),(3,4) | (2,1),(3,4)
2 | 2 \text{ or } 3
2 | 2, 3
2 | 2 or 3
2 | 3
1,2 | 1
1,2 | 1,2,3
2 | x=2 \text{ or } x=-2
\pm 2 | 2
2 | \pm 2
[0,1] | [0,1)
(0,1)\cup(2,3) | (0,1)\cap(2,3)
2\le x\le 5 | [2,5)
x>2 | x\ge2
x>2 | x<2
[a,b] | [a, b)
\text{odd} | \text{even}
\text{odd} | \text{not odd}
\text{Yes} | No
B | C
B | A,B
B | \text{A or B}
\text{June 5} | June 6
\text{Monday} | Tuesday
ABC | BCA
x+y | x-y
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&3\\2&4\end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}1&2\end{pmatrix}
1011_2 | 1011_3
1011_2 | 1011
1011_2 | 1010_2
3\times10^8 | 3\times 10^9
5\sqrt2 | 7.07
\sqrt2 | 1.41421356237
\pi | 3.14159265358979
\pi | \frac{22}{7}
\ln 2 | \log 2
(x+1)^2 | x^2+1
|x| | x
(-1)^n | (-1)^{n+1}
3+4i | 3-4i
2i | 2
3:4 | 4:3
12:00 | 1:00
2:30\text{ p.m.} | 2:30\text{ a.m.}
2^{99} | 633825300114114700748351602689
\frac{1}{2^{99}} | \frac{1}{2^{98}}
2^{2005} | 2^{2004}
10^{-30} | 0
10^{-30} | 10^{-31}
123456789012345678901234567890 | 123456789012345678901234567891
5 | \text{The answer is } 5
5 | \text{not } 5
5 | 5 \text{ or so}
5 | \text{about } 5
5 | 5?
5 | >5
0 | \frac{1}{0}
\infty | -\infty
x^2 + 1 | y^2+1
a_{n+1} | a_n
\frac{\pi}{2} | 1.5708
\frac{\pi}{2} | 90^\circ
\cos 2x | 1-\sin^2 x
y>0 | x>0
6-5i | 6-5j
\text{Tuesday} | \text{It is Tuesday}
\frac{13}{4} | 3\frac{1}{5}
\text{A} | \text{A, B}
\sqrt{a^2} | a
(2,3) | \begin{pmatrix}2\\3\end{pmatrix}
(2,3) | (2,3),(3,2)
(2,3),(3,2) | (2,3)
D | \text{Option D}
75 | 75\%
1,2,3 | (3,2,1)
30^\circ | \frac{\pi}{6}
\frac{\pi}{6} | 30^\circ
10^{23} | 10^{22}
1e-5 | 10^{-5}
0 < x < 1 | 0<x\le 1
x\le -2\text{ or }x\ge 2 | |x|\ge 2
\{x : x > 3\} | (3,\infty)
\text{Alice} | Bob
\text{Alice} | \text{Alice and Bob}
\text{no} | \text{no solution}
\text{parallel} | \text{perpendicular}
y=\frac{1}{2}x+1 | 2y=x+1
f(x)=x+1 | f(x)=x-1
f(x)=x+1 | g(x)=x+1
3 \pmod 5 | 3
7 | 7 \pmod{10}
-i | i
\frac{22}{7} | 3.142857
3.142857 | \frac{22}{7}
\sin x | \sin y
\sin x^2 | \sin^2 x
\begin{bmatrix} 1 \\ 2 \end{bmatrix} | \begin{bmatrix} 2 \\ 1 \end{bmatrix}
1:2:3 | 1:3:2
12 | 12\%
\$1.50 | 150
\$1.50 | 150\text{ cents}
5 \text{ km} | 5000 \text{ m}
16\text{ ft}^2 | 16 \text{ ft}
n(n+1) | n^2+1
2^n | 2n
\frac{n!}{2} | \frac{n!}{3}
-\infty | \infty
\text{infinite} | \infty
n\pi | k\pi
a^2b | ab^2
x_1 | x_2
\overline{AB} | \overline{CD}
\angle A | \angle B
42 | 42 \checkmark
42 | 4 2
42 | \text{forty-two}
42 | 42;43
42 | 41 < x < 43
42 | 42 \pm 1
42 | 42\%
42 | -42
42 | \{42, 43\}
42 | x=42, y=1
42 | \text{Either } 42 \text{ or } 43
42 | \text{I think } 42
42 | 42 \text{ probably}
42 | \text{maybe }42
""".strip().splitlines()


@pytest.fixture(scope="module")
def grader():
    with MathGrader() as grader:
        yield grader


def test_equal_answers_are_correct(grader):
    pairs = [line.split(" | ") for line in RIGHT]
    grades = grader.grade([rf"So $\boxed{{{a}}}$." for _, a in pairs], [g for g, _ in pairs])
    assert [p for p, grade in zip(pairs, grades, strict=True) if grade.reward != 1.0] == []


def test_different_answers_are_wrong(grader):
    pairs = [line.split(" | ") for line in WRONG]
    grades = grader.grade([rf"So $\boxed{{{a}}}$." for _, a in pairs], [g for g, _ in pairs])
    assert [p for p, grade in zip(pairs, grades, strict=True) if grade.reward != 0.0] == []


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed {28}", "28"),
        (r"\fbox{3}", "3"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\frac{1}{2}} and text {", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed{5} as a \boxed answer", "5"),
        (r"\boxed{5} but then \boxed{6", None),
        (r"\boxed{}", ""),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_the_last_balanced_box_is_the_answer(response, answer):
    assert last_box(response) == answer


def test_without_a_box_nothing_is_correct(grader):
    responses = [
        "5",
        "The answer is 5.",
        r"\boxed{5",
        r"\boxed{}",
        r"\boxed{ }",
        "$5$",
        r"\text{5}",
    ]
    grades = grader.grade(responses, ["5"] * len(responses))
    assert {grade.verdict for grade in grades} == {Verdict.NO_ANSWER}


def test_extraction_is_linear():
    # Quadratic scanning would take minutes on these.
    for bomb in ("\\boxed{" * 200_000, "{" * 1_000_000, "\\" * 1_000_000, "\\boxed " * 200_000):
        assert last_box(bomb) is None


def test_any_accepted_form_counts(grader):
    forms = ["3.83e35", r"3.83 \times 10^{35}"]
    grades = grader.grade([r"\boxed{3.83\cdot10^{35}}", r"\boxed{3.83}"], [forms, forms])
    assert [grade.reward for grade in grades] == [1.0, 0.0]


def test_an_answer_cannot_be_a_list_of_candidates(grader):
    shotgun = ",".join(str(k) for k in range(50))
    assert grader.grade([rf"\boxed{{{shotgun}}}"], ["7"])[0].reward == 0.0


@given(
    number=st.fractions(max_denominator=10**6),
    factor=st.integers(2, 9),
)
def test_the_fast_path_agrees_with_fractions(number, factor):
    unreduced = rf"\frac{{{number.numerator * factor}}}{{{number.denominator * factor}}}"
    plain = f"{number.numerator}/{number.denominator}"
    assert decide(unreduced, (plain,)) is True
    assert decide(unreduced, (f"{number.numerator + 1}/{number.denominator}",)) is False


def test_the_fast_path_and_the_workers_agree(grader):
    """The same numbers, spelled so that the fast path must pass them on."""
    rng = random.Random(0)
    for _ in range(200):
        a, b = rng.choice(["7", "-7", "0.25", r"\frac{1}{4}", "1/4", "12.50", "025", "25"]), "25"
        b = rng.choice(["7", "1/4", "12.5", "25", "-7"])
        fast = decide(a, (b,))
        slow = grader.grade([rf"\boxed{{\left({a}\right)}}"], [b])[0].reward == 1.0
        assert fast == slow, (a, b)


_SHAPES = [
    "{0}", "-{0}", "{0}.{1}", r"\frac{{{0}}}{{{1}}}", r"{0}\sqrt{{{1}}}", "({0},{1})", "[{0},{1})",
    "{0},{1},{2}", "{0}x^2+{1}x-{2}", "x={0}", "y={0}x+{1}", r"{0}\pi", r"{0}\%", "{0}-{1}i",
    r"{0}\cdot 10^{{{1}}}", "x>{0}", "{0}^{{{1}}}",
    r"\begin{{pmatrix}}{0}&{1}\\{2}&1\end{{pmatrix}}",
]  # fmt: skip


@st.composite
def _mutants(draw):
    """A right answer and the same with one digit or one sign changed."""
    shape = draw(st.sampled_from(_SHAPES))
    # Different numbers, so that a mutated list is never the old one; no 0 or 1, so that
    # every digit matters.
    numbers = draw(st.lists(st.integers(12, 98), min_size=3, max_size=3, unique=True))
    gold = shape.format(*numbers)
    places = [i for i, c in enumerate(gold) if c.isdigit() or c in "+-"]
    if draw(st.booleans()) and "-" not in gold[:1] and shape != "({0},{1})":
        return gold, "-" + gold if shape[0] not in "[(xy\\" else gold.replace("{", "{-", 1)
    place = draw(st.sampled_from(places))
    if gold[place].isdigit():
        changed = str((int(gold[place]) + draw(st.integers(1, 8))) % 9 + (gold[place] == "9"))
    else:
        changed = {"+": "-", "-": "+"}[gold[place]]
    return gold, gold[:place] + changed + gold[place + 1 :]


@settings(max_examples=100, deadline=None)
@given(st.lists(_mutants(), min_size=100, max_size=100))
def test_a_changed_digit_or_sign_is_never_correct(grader, pairs):
    pairs = [(gold, mutant) for gold, mutant in pairs if gold != mutant]
    golds = [gold for gold, _ in pairs]
    boxed = grader.grade([rf"\boxed{{{gold}}}" for gold in golds], golds)
    assert all(grade.reward == 1.0 for grade in boxed)
    grades = grader.grade([rf"\boxed{{{mutant}}}" for _, mutant in pairs], golds)
    kept = [pair for pair, grade in zip(pairs, grades, strict=True) if grade.reward]
    assert kept == []


def test_the_command_prints_a_table_and_names_bad_lines(tmp_path):
    good = tmp_path / "good.jsonl"
    good.write_text(json.dumps({"response": r"\boxed{1/2}", "gold": ["3", "0.5"]}) + "\n")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(good.read_text() + '{"response": 3}\n')
    command = [sys.executable, "-m", "dars_jax.rewards"]
    run = subprocess.run([*command, str(good)], capture_output=True, text=True)
    assert run.returncode == 0 and "correct" in run.stdout and "1.0000" in run.stdout
    run = subprocess.run([*command, str(bad)], capture_output=True, text=True)
    assert run.returncode == 1 and f"{bad}:2" in run.stderr
