"""Numbers: exact, in any spelling, and never by their first digits."""

from judging import judged_otherwise

# gold ~ answer, one pair a line
EQUAL = r"""
0.5 ~ \frac12
\frac13 ~ 0.\overline{3}
\frac16 ~ 0.1\overline{6}
0.28 ~ 28\%
28\% ~ \frac{7}{25}
28\% ~ 0.28
33\frac{1}{3}\% ~ \frac13
12.5\% ~ 12.5 \%
1000 ~ 1,000
1000000 ~ 1,000,000
1,000 ~ 1000
10,080 ~ 10080
10080 ~ 10{,}080
1000000 ~ 1\,000\,000
1000000 ~ 1 000 000
12345 ~ 12,345.0
100,200,300 ~ 300,200,100
\frac{\sqrt3}{2} ~ \sin\left(\frac{\pi}{3}\right)
1011_2 ~ 1011_{2}
1011_2 ~ (1011)_2
3\times10^8 ~ 300000000
3\times10^8 ~ 3e8
3e8 ~ 3\times10^8
3.0 \times 10^{-5} ~ 0.00003
2\frac12 ~ \frac52
2\frac12 ~ 2.5
2\frac{1}{2} ~ 2 1/2
\frac52 ~ 2\tfrac{1}{2}
\frac52 ~ 5/2
-\frac12 ~ \frac{-1}{2}
-\frac12 ~ \frac{1}{-2}
-\frac12 ~ -0.5
\frac12 ~ \frac24
\frac{2}{\sqrt2} ~ \sqrt2
\frac{1}{\sqrt2} ~ \frac{\sqrt2}{2}
\sqrt[3]{8} ~ 2
\sqrt[3]{16} ~ 2\sqrt[3]{2}
\sqrt{50} ~ 5\sqrt2
6\pi ~ 6π
\sqrt3 ~ √3
\log_2 8 ~ 3
\log_2 3 ~ \frac{\ln 3}{\ln 2}
\ln 6 ~ \ln 2+\ln3
e^{i\pi} ~ -1
\arctan 1 ~ \frac{\pi}{4}
\sin^{-1}(1) ~ \frac{\pi}{2}
\binom{5}{2} ~ 10
5! ~ 120
\lfloor 3.7\rfloor ~ 3
3+4i ~ 4i+3
\frac{1+i}{2} ~ \frac12+\frac{i}{2}
2^{99} ~ 633825300114114700748351602688
\frac{1}{2^{99}} ~ 2^{-99}
123456789012345678901234567890 ~ 123456789012345678901234567890
0 ~ 0.0
0 ~ -0
5 ~ +5
5 ~ 05
025 ~ 25
5 ~ 5.
.5 ~ 0.5
5 ~ ((5))
5 ~ \text{5}
5 ~ \mathbf{5}
5 ~ {5}
5 ~ $5$
5 ~ 5+0
5 ~ 4+1
5 ~ 2\cdot 3-1
5 ~ \frac{10}{2}
4 ~ 2^2
0.1 ~ \frac{1}{10}
\infty ~ \infty
\infty ~ +\infty
\frac{\sqrt{3}}{3} ~ \frac{1}{\sqrt{3}}
-1+i\sqrt3 ~ -1+\sqrt{3}i
\sqrt{2}+1 ~ 1+\sqrt{2}
1-\frac{1}{e} ~ \frac{e-1}{e}
10\% ~ 0.1
150\% ~ \frac{3}{2}
0.5\% ~ 0.005
\dfrac{4}{5} ~ \frac{4}{5}
\frac{5}{6} ~ \frac{5}{6}\approx 0.83
3\sqrt{13} ~ 3 \sqrt{13}
-\frac{\sqrt{3}}{2} ~ \frac{-\sqrt{3}}{2}
0.125 ~ 1/8
\frac{13}{4} ~ 3.25
\frac{13}{4} ~ 3\frac{1}{4}
2\sqrt{3} ~ \sqrt{12}
1{,}234.5 ~ 1234.5
1.5\times10^{-3} ~ 0.0015
3 ~ 3\sqrt{1}
\frac{\pi}{4} ~ \arctan(1)
\frac{3}{4} ~ 75\%
0.75 ~ 75\%
5\times 10^{-3} ~ 0.005
6.02\times10^{23} ~ 6.02 \cdot 10^{23}
(1+i)^2 ~ 2i
\log_{10} 100 ~ 2
\lg 100 ~ 2
\ln e ~ 1
e^{\ln 5} ~ 5
\log_3 9 ~ 2
\frac{\ln 8}{\ln 2} ~ 3
2^{10} ~ 1024
1024 ~ 2^{10}
2^{-3} ~ 0.125
0.\overline{9} ~ 1
0.\overline{36} ~ \frac{4}{11}
\frac{22}{7} ~ 3\frac17
\binom{10}{3} ~ 120
\lfloor \pi \rfloor ~ 3
|{-3}| ~ 3
|-3| ~ 3
1+\frac{1}{1+\frac{1}{2}} ~ \frac53
5\% ~ 0.05
\frac{1}{3}\% ~ \frac{1}{300}
\infty ~ +\infty
42 ~ 42\quad
42 ~ \mathbf{42}
42 ~ \underline{42}
42 ~ 42,
42 ~ (42)
42 ~ [42]
42 ~ 42/1
42 ~ 84/2
42 ~ 4.2\times 10
42 ~ 4.2\times 10^1
42 ~ 0.42\times 10^2
42 ~ 42_{10}
42 ~ 101010_2
1e-5 ~ 10^{-5}
5 ~ 5 \text{ }\Omega
2e-3 ~ 0.002
2e-3 ~ 2\times10^{-3}
2e-3 ~ 2 \cdot 10^{-3}
3e8 ~ 3x10^8
3e8 ~ 3 × 10⁸
3e8 ~ 3 X 10^{8}
3e8 ~ 3*10^8
3e8 ~ 3*10**8
3e8 ~ 3.0e+8
3e8 ~ 3.e8
3e8 ~ 3\mathrm{e}8
3e8 ~ 3\text{E}8
1.5e-7 ~ 1.5\mathrm{E}{-7}
1e5 ~ 10^5
10^{-5} ~ 1e-05
-0.25 ~ -.25
0.\overline{3} ~ \frac13
0.\dot3 ~ \frac13
0.1\dot{6} ~ \frac16
0.\dot{1}4285\dot{7} ~ \frac17
0.\dot1\dot8 ~ \frac{2}{11}
\frac{1}{2} ~ ½
\frac{5}{2} ~ 2½
12 ~ １２
-3 ~ －３
3+4 ~ 3＋4
\alpha ~ α
\sqrt{2} ~ √2
5 ~ 5​
50\% ~ 50％
52_8 ~ 42
52_8 ~ 52_{8}
\frac{12}{5} ~ {12 \over 5}
\frac{12}{5} ~ 12 \over 5
15 ~ 5!!
1 ~ \int_0^\infty e^{-x}dx
\sqrt{\pi} ~ \int_{-\infty}^{\infty} e^{-x^2}dx
1 ~ \int_1^\infty \frac{1}{x^2}\,dx
\frac{\pi^2}{6} ~ \sum_{n=1}^\infty \frac{1}{n^2}
1010_2 ~ 10
\sqrt{2} ~ \sqrt2 \approx 1.414
\frac56 ~ \frac{5}{6}\approx 0.83
2^n ~ 2^n \text{ for all positive integers } n
x = 2k\pi ~ x=2k\pi, \text{ where } k \text{ is any integer}
3 ~ 3\ \Omega
3 ~ 3\ \mathrm{\Omega}
0.5 ~ ０．５
5 ~ ５
\frac{3}{4} ~ ¾
\frac{1}{3} ~ ⅓
1\frac12 ~ 1½
10^{23} ~ 10²³
-2 ~ ‒2
\pi/2 ~ π∕2
0.\overline{12} ~ \frac{4}{33}
\frac{4}{33} ~ 0.\dot{1}\dot{2}
\frac{1}{3} ~ 0.\bar{3}
\frac{1}{3} ~ 0.\overline3
\frac{1}{3} ~ 0.333\overline{3}
\frac13 ~ .\overline{3}
3e8 ~ 3\cdot10^{8}
3e8 ~ 3.00\times 10^8
3e8 ~ 300,000,000
1.6e-19 ~ 1.6E-19
1.6e-19 ~ 1.6e{-19}
1.6e-19 ~ 1.6\times 10^-19
1.6e-19 ~ 1.6 x 10^-19
1.6e-19 ~ 1.6 x 10^(-19)
1.6e-19 ~ 1.6*10^-19
1e8 ~ 10^8
1e8 ~ 10^{8}
5e-7 ~ 0.0000005
2e-3 ~ 2e-03
"""

DIFFERENT = r"""
\frac{1}{3} ~ 0.333
\frac{1}{3} ~ 0.3333333333
28 ~ 0.28
28\% ~ 2800\%
1 ~ 1,000
2 ~ 3
1011_2 ~ 1011_3
1011_2 ~ 1011
1011_2 ~ 1010_2
3\times10^8 ~ 3\times 10^9
5\sqrt2 ~ 7.07
\sqrt2 ~ 1.41421356237
\pi ~ 3.14159265358979
\pi ~ \frac{22}{7}
\ln 2 ~ \log 2
3+4i ~ 3-4i
2i ~ 2
2^{99} ~ 633825300114114700748351602689
\frac{1}{2^{99}} ~ \frac{1}{2^{98}}
2^{2005} ~ 2^{2004}
10^{-30} ~ 0
10^{-30} ~ 10^{-31}
123456789012345678901234567890 ~ 123456789012345678901234567891
5 ~ 5?
0 ~ \frac{1}{0}
\infty ~ -\infty
\frac{\pi}{2} ~ 1.5708
\frac{13}{4} ~ 3\frac{1}{5}
75 ~ 75\%
10^{23} ~ 10^{22}
\frac{22}{7} ~ 3.142857
3.142857 ~ \frac{22}{7}
12 ~ 12\%
-\infty ~ \infty
42 ~ 42 \checkmark
42 ~ 4 2
42 ~ 42\%
42 ~ -42
3e8 ~ 3e7
3e8 ~ 3e-8
0.\dot3 ~ 0.3
\Delta ~ δ
52_8 ~ 52_3
52_8 ~ 52
52_8 ~ 52_9
101_2 ~ 101_3
\Sigma ~ \sigma
\frac13 ~ 0.33333333333333333333333333333333333333333333333333333333333333333
\sqrt2 ~ \sqrt{2.0000000000000000000000000000000000000000000000000000001}
120 ~ 5!!
5 ~ 5^*
5\# ~ 5
2 ~ \int_0^\infty e^{-x}dx
5 ~ 5-7
777_8 ~ 777_9
12_{10} ~ 12_5
\Phi ~ \phi
10! ~ 10
5\% ~ 5
5 ~ 5‰
5 ~ 5 !
5 ~ \not 5
5 ~ \cancel{5}
5 ~ \sout{5}
7 ~ 7_{?}
7 ~ 7^{*}
7 ~ 7\dagger
7 ~ 7\quad 8
7 ~ 7/1/2
7 ~ 7\\8
7 ~ 7\vee 8
7 ~ 7\hspace{1cm}8
7 ~ 7 \approx 8
8 ~ 7 \approx 8
1.414 ~ \sqrt2 \approx 1.414
7 ~ 8 \approx 7
"""


def test_equal_numbers_are_correct(grader):
    assert judged_otherwise(grader, EQUAL, reward=1.0) == []


def test_different_numbers_are_wrong(grader):
    assert judged_otherwise(grader, DIFFERENT, reward=0.0) == []
