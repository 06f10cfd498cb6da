"""Equations, inequalities, memberships, and names with their values."""

from judging import judged_otherwise

# gold ~ answer, one pair a line
EQUAL = r"""
y-|x|=1 ~ y=1+|x|
\frac{dy}{dx}=2x ~ 2x
\{5\} ~ 5
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
g(x)=x^2, f(x)=x ~ f(x)=x, g(x)=x^2
f(x)=x,f(x)=-x ~ f(x)=-x \text{ or } f(x)=x
n=3k+1 ~ n=3k+1, k \in \mathbb{Z}
\frac56 ~ x=\frac{5}{6}\approx 0.83
f(x)=cx ~ f(x)=cx, c\in\mathbb{R}
2^n ~ 2^n\ (n\ge 1)
2^n ~ 2^n \quad (n \in \mathbb{N})
x = 2k\pi ~ x=2k\pi\;(k\in\mathbb Z)
f(x)=x ~ f(x) = x\ \forall x
(n,m)=(2,3) ~ (2,3)
x=3 ~ x＝3
x<3 ~ x＜3
"""

DIFFERENT = r"""
y=|x| ~ y=x
y=|x|+1 ~ y=x+1
y=\sqrt{x^2} ~ y=x
y=\lfloor x\rfloor ~ y=x
y=x+x(x-1)(x-2) ~ y=x
\frac{dy}{dx} ~ \frac{y}{x}
\frac{\partial f}{\partial x} ~ \frac{f}{x}
\mathbf{x}\times\mathbf{y} ~ \mathbf{x}\cdot\mathbf{y}
\vec{a}\times\vec{b} ~ \vec{b}\times\vec{a}
\{x\} ~ x
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
y=x^2 ~ y^2=x^4
y=x ~ y^2=x^2
xy=0 ~ x=0
x^2y=x ~ xy=1
\frac{y}{x}=1 ~ y=x
f(x)=2x ~ f(y)=2x
f(x,y)=x+y ~ f(x,y)=x-y
g(x)=x^2, f(x)=x ~ f(x)=x^2, g(x)=x
f(x)=x,f(x)=-x ~ f(x)=x
f(x)=x^n ~ f(x)=x
f(1)=2 ~ f(2)=1
P(X>3) ~ P(X<3)
AB=CD ~ AB=DC+1
x>3 ~ x\ge3
x<3 ~ x<3.0000001
|x|<3 ~ x<3
1<x<2 ~ 1<x
n=3k+1 ~ n=3k
n = 3k+1, k\in\mathbb{Z} ~ n = 3k+1, k \in \mathbb{N}
5 ~ \sim 5
5 ~ \neq 5
5 ~ x\neq 5
5 ~ x>5
7 ~ 7\in\{7,8\}
7 ~ x\in\{7,8\}
7 ~ 7=8
7 ~ 6<7<8
"""


def test_equal_relations_are_correct(grader):
    assert judged_otherwise(grader, EQUAL, reward=1.0) == []


def test_different_relations_are_wrong(grader):
    assert judged_otherwise(grader, DIFFERENT, reward=0.0) == []
