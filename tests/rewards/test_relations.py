"""Equations, inequalities, memberships, and names with their values."""

from judging import judged_otherwise

# gold ~ answer, one pair a line
EQUAL = r"""
x=5 ~ 5
5 ~ x=5
5 ~ x = 5
5 ~ 5 = x
\frac12 ~ x=\frac{1}{2}=0.5
y=2x+3 ~ 2x-y+3=0
y=2x+3 ~ y-2x=3
y=2x+3 ~ 2x+3
2x+3 ~ y=2x+3
2x+3 ~ f(x)=2x+3
f(x)=2x+3 ~ 2x+3
x^2+y^2=4 ~ y^2+x^2-4=0
\frac{x^2}{4}+\frac{y^2}{9}=1 ~ 9x^2+4y^2=36
xy=1 ~ y=\frac1x
x=2y ~ y=\frac{x}{2}
x=1,y=2 ~ y=2,x=1
x=1,y=2 ~ (1,2)
(1,2) ~ x=1,y=2
(x,y)=(1,2) ~ (1,2)
(1,2) ~ (x,y)=(1,2)
1,2 ~ x=1 \text{ or } x=2
1,2 ~ x=1, x=2
1,2 ~ x_1=1, x_2=2
1,2 ~ x \in \{1,2\}
\pm 2 ~ x=\pm 2
(-\infty,3) ~ x<3
x<3 ~ (-\infty,3)
[2,5] ~ 2\le x\le 5
2\le x\le 5 ~ [2,5]
2<x\le5 ~ x\in(2,5]
x>2 ~ 2<x
x\ge 2 ~ x \geqslant 2
2x>4 ~ x>2
(-\infty,-1)\cup(1,\infty) ~ x<-1 \text{ or } x>1
(-2,3) ~ x>-2 \text{ and } x<3
x\neq 1 ~ \mathbb{R}\setminus\{1\}
\sum_{k=1}^n k ~ \frac{n(n+1)}{2}
\sum_{k=0}^{\infty}\frac{1}{2^k} ~ 2
AB=5 ~ 5
5 ~ AB = 5
P(A)=\frac12 ~ 0.5
x=\frac{\pi}{6}+k\pi ~ \frac{\pi}{6}+k\pi
a_n=2n+1 ~ 2n+1
2n+1 ~ a_n = 2n+1
k \ge 0 ~ k\geq0
[1,3] ~ 1 \leq a \leq 3
3x^2+2x-1=0 ~ 6x^2+4x-2=0
x>1 ~ (1, \infty)
(2,3) ~ x=2, y=3
\{2,-2\} ~ x=\pm 2
x\in(0,1) ~ 0<x<1
x\le -2\text{ or }x\ge 2 ~ (-\infty,-2]\cup[2,\infty)
(-\infty,-2]\cup[2,\infty) ~ x\ge2, x\le-2
x^2-5x+6=0 ~ (x-2)(x-3)=0
y=\frac{1}{2}x+1 ~ x-2y+2=0
x^2+y^2=1 ~ x^2+y^2-1=0
f(x)=x+1 ~ f(x)=1+x
\sum_{i=1}^{5} i^2 ~ 55
55 ~ \sum_{k=1}^{10} k
\prod_{k=1}^{5} k ~ 120
k\pi, k\in\mathbb{Z} ~ k\pi,\ k \in \mathbb{Z}
2n ~ 2n, n \in \mathbb{N}
x>.5 ~ x>\frac12
x=5 ~ x＝5
xy=1 ~ y=\frac{1}{x}
2x+4y=6 ~ x+2y=3
f(x)=2x ~ 2x
f^{-1}(x)=2x ~ f^{-1}(x)=x\cdot 2
P(A\mid B)=\frac12 ~ P(A|B)=0.5
P(A|B)=\frac12 ~ \frac12
y = 2x ~ $y$ = $2x$
x\in[0,1] ~ 0\le x\le 1
\sum_{k=1}^n a_k ~ \sum_{j=1}^n a_j
y\in(0,1) ~ y \in (0, 1)
"""

DIFFERENT = r"""
x=5 ~ y=5
5 ~ 2x=5
5 ~ x=4
\frac12 ~ x=\frac{1}{2}=0.6
x^2+y^2=4 ~ 4
x=1,y=2 ~ x=2,y=1
(1,2) ~ x=2,y=1
(1,2) ~ (x,y)=(2,1)
2 ~ x=2 \text{ or } x=-2
2\le x\le 5 ~ [2,5)
x>2 ~ x\ge2
x>2 ~ x<2
5 ~ >5
y>0 ~ x>0
0 < x < 1 ~ 0<x\le 1
x\le -2\text{ or }x\ge 2 ~ |x|\ge 2
y=\frac{1}{2}x+1 ~ 2y=x+1
f(x)=x+1 ~ f(x)=x-1
f(x)=x+1 ~ g(x)=x+1
42 ~ 41 < x < 43
42 ~ x=42, y=1
2n, n\in\mathbb{Z} ~ 2n, n \in \mathbb{N}
xy=x^2 ~ x=y
xy=x ~ y=1
x y = 2x+1 ~ y=\frac{2x+1}{x}
(x-1)y=x-1 ~ y=1
x^2=x ~ x=1
x(x-1)=0 ~ x=1
f(x)=2x ~ f(x)=5x
f(x)=2x ~ 0
f(x)=2x ~ f(x)=0
f(x)=2x ~ f(2x)=2x
f(x)=2x ~ g(x)=2x
f(x)=2x ~ x=0
f'(x)=2x ~ f(x)=2x
f^{-1}(x)=2x ~ f(x)=2x
x<3 ~ x<3.00000000000000000000000000000000000000000000000000000001
\sum_{k=1}^n k ~ \frac{n(n-1)}{2}
y\in(0,1) ~ x \in (0, 1)
"""


def test_equal_relations_are_correct(grader):
    assert judged_otherwise(grader, EQUAL, reward=1.0) == []


def test_different_relations_are_wrong(grader):
    assert judged_otherwise(grader, DIFFERENT, reward=0.0) == []
