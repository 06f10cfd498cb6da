"""Expressions in free letters: equal as functions, not at some points."""

from judging import judged_otherwise

# gold ~ answer, one pair a line
EQUAL = r"""
5 ~ x \approx 5
xy ~ yx
2xy ~ 2yx
x+y ~ y+x
1A_{16} ~ 1A_{16}
2\ln x ~ \ln x^2
e^{2x} ~ (e^x)^2
\sin^2x+\cos^2x ~ 1
\tan x ~ \frac{\sin x}{\cos x}
(x+1)^2 ~ x^2+2x+1
(x-1)(x+1) ~ x^2-1
x^2-1 ~ (x-1)(x+1)
\frac{x^2-1}{x-1} ~ x+1
\sqrt{x^2} ~ |x|
n! ~ n \cdot (n-1)!
\binom{n}{2} ~ \frac{n(n-1)}{2}
2^{n+1} ~ 2\cdot 2^n
(-1)^n ~ (-1)^{n+2}
\int_0^1 x^2\,dx ~ \frac13
\frac{x^3}{3}+C ~ C+\frac{x^3}{3}
x^{10} ~ x^10
4x^2-1 ~ (2x-1)(2x+1)
\cos 2x ~ 1-2\sin^2 x
\frac{1}{2}x ~ \frac{x}{2}
x/2 ~ \frac{x}{2}
\overline{AB} ~ \overline{AB}
\triangle ABC ~ \triangle ABC
\vec{a} ~ \vec{a}
\frac{a}{b} ~ a/b
\frac{x+1}{2} ~ \frac{1}{2}(x+1)
\tan\theta ~ \frac{\sin\theta}{\cos\theta}
\cot x ~ \frac{1}{\tan x}
\sin(2x) ~ 2 \sin(x) \cos(x)
\sin^2 x ~ (\sin x)^2
(-1)^{n+1} ~ (-1)^{n-1}
n^2+n ~ n(n+1)
\frac{1}{2}bh ~ \frac{bh}{2}
ab+bc+ca ~ ca+ab+bc
x_1+x_2 ~ x_2+x_1
5 ~ 5\,\mathrm{k}\Omega
5 ~ 5\,\mathrm{k\Omega}
5 ~ 5\,\mu\text{s}
5 ~ 5 \mu m
5 ~ 5 µm
x^{10} ~ x¹⁰
x^{-2} ~ x⁻²
x_1 ~ x₁
2\pi r ~ 2πr
1A_{16} ~ 26
FF_{16} ~ FF_{16}
I(0)e^{-t} ~ \frac{I(0)}{e^t}
n(n+1) ~ n^2+n
x(x-1) ~ x^2-x
|x-y| ~ |y-x|
n!! ~ n!!
n-2\lfloor n/2\rfloor ~ \frac{1-(-1)^n}{2}
|xy| ~ |x||y|
\frac{\sin 2x}{2} ~ \sin x\cos x
3 ~ 3\,\mu\text{m}
3 ~ 3\,\mathrm{\mu m}
3 ~ 3\ \text{μm}
x^{2} ~ x^２
a-b ~ a–b
"""

DIFFERENT = r"""
x+y ~ x-y
(x+1)^2 ~ x^2+1
(-1)^n ~ (-1)^{n+1}
x^2 + 1 ~ y^2+1
a_{n+1} ~ a_n
\cos 2x ~ 1-\sin^2 x
6-5i ~ 6-5j
\sin x ~ \sin y
\sin x^2 ~ \sin^2 x
n(n+1) ~ n^2+1
2^n ~ 2n
\frac{n!}{2} ~ \frac{n!}{3}
n\pi ~ k\pi
a^2b ~ ab^2
x_1 ~ x_2
\overline{AB} ~ \overline{CD}
\angle A ~ \angle B
2e-3 ~ 2e-3x
1A_{16} ~ 1A_{15}
A'B' ~ AB'
\Omega ~ \omega
\Gamma(x) ~ \gamma(x)
I(0)e^{-t} ~ 0
I(0)e^{-t} ~ I(1)e^{-t}
I(0)e^{-t} ~ V(0)e^{-t}
P(A|B) ~ P(B|A)
a_1 ~ a_2
\arctan x ~ \tan x
A\to B ~ B\to A
\Re(z) ~ \Im(z)
AB\parallel CD ~ AB\perp CD
1 ~ \lim_{n\to\infty}\frac{n}{2n+1}
\lfloor x+\frac12\rfloor ~ \lfloor x\rfloor
\lceil x\rceil ~ \lfloor x\rfloor+1
|x|+|y| ~ |x+y|
\sqrt{x^2+y^2} ~ x+y
\Gamma(n+1) ~ n!
\log x ~ \ln x
f(f(x)) ~ f(x)^2
a_{n} ~ a^{n}
f''(x) ~ f'(x)
AB-CD ~ AB+CD
A-B ~ B-A
\triangle ABC ~ \triangle ACB
\Theta(n) ~ \theta(n)
2k\pi ~ k\pi
\frac{\pi}{4}+k\pi ~ \frac{\pi}{4}+2k\pi
\frac{\pi}{4}+k\pi ~ -\frac{\pi}{4}+k\pi
\vec{AB} ~ \vec{BA}
\hat{i} ~ \hat{j}
3\hat{i}+4\hat{j} ~ 7
\frac{d^2y}{dx^2} ~ \frac{dy}{dx}
\frac{\partial f}{\partial x} ~ \frac{\partial f}{\partial y}
p\land q ~ p\lor q
p \implies q ~ q \implies p
A\times B ~ A+B
"""


def test_equal_functions_are_correct(grader):
    assert judged_otherwise(grader, EQUAL, reward=1.0) == []


def test_different_functions_are_wrong(grader):
    assert judged_otherwise(grader, DIFFERENT, reward=0.0) == []
