"""Units, currencies and counted nouns: ignored where one side lacks them, and only if units."""

from judging import judged_otherwise

# gold ~ answer, one pair a line
EQUAL = r"""
5\% ~ 5\text{ percent}
5\text{ cm} ~ 5
5 ~ 5\text{ cm}
5 ~ 5\,\mathrm{cm}
5 ~ 5~\mathrm{m}
5 ~ 5 \, \text{m/s}
5\text{ m/s} ~ 5
5 ~ 5\text{ m/s}^2
9.8 ~ 9.8\,\mathrm{m/s^2}
9.8 ~ 9.8\ \mathrm{m}\cdot\mathrm{s}^{-2}
36 ~ 36\text{ square units}
36 ~ 36\text{ units}^2
36\pi ~ 36\pi\text{ cm}^3
10 ~ 10 \text{ cm}^{2}
10 ~ 10\text{ sq. ft.}
3 ~ 3\text{ hours}
25 ~ 25\text{ students}
25 ~ 25 students
5 ~ 5 cm
5 ~ \$5.00
5 ~ \text{\$5}
5 ~ 5\text{ dollars}
1000 ~ \$1,000
45 ~ 45^\circ
45^\circ ~ 45
45^\circ ~ 45^{\circ}
45^\circ ~ 45\degree
45^\circ ~ 45°
25 ~ 25^\circ\mathrm{C}
\frac{1}{2} ~ \sin 30^\circ
\sqrt{3} ~ \tan 60^\circ
\frac12 ~ \cos(60^\circ)
\text{June 5} ~ June 5
1011_2 ~ 1011_{\text{two}}
2:30\text{ p.m.} ~ 2:30\text{ pm}
2:30 ~ 2:30\text{ PM}
\angle ABC=30^\circ ~ 30^\circ
\text{Area}=5 ~ 5
5 ~ \text{Area} = 5
5\text{ million} ~ 5000000
5000000 ~ 5\text{ million}
\frac{3}{4}\text{ cup} ~ 0.75
80\text{ km/h} ~ 80
80\text{ km/h} ~ 80 \text{ km per hour}
13\text{ cm} ~ 13\text{ centimeters}
13 ~ 13 \text{ (people)}
8\pi\text{ cm}^2 ~ 8\pi
3:00 ~ 3:00\text{ PM}
€5 ~ 5
5\,\text{kg} ~ 5
\frac{5}{2}\text{ hours} ~ 2.5\text{ hours}
2\text{ hours} ~ 2\text{ hr}
16\text{ ft}^2 ~ 16 \text{ square feet}
60^\circ ~ 60\text{ degrees}
5 ~ 5 \mathrm{~\AA}
2n ~ 2n \text{ (where } n \text{ is a positive integer)}
k\pi, k\in\mathbb{Z} ~ k\pi\text{ for any integer }k
k\pi, k\in\mathbb{Z} ~ k\pi\ (k\text{ an integer})
5 ~ 5\text{ square meters}
5 ~ 5\,\mathrm{kg\cdot m/s^2}
5 ~ 5\,\mathrm{W/m^2}
5 ~ 5\,\mathrm{J\,K^{-1}}
5 ~ 5\,\mathrm{kg}\cdot\mathrm{m}^2
5 ~ 5\,\text{N}\cdot\text{m}
\sqrt2 ~ \sqrt2\text{ m}
\frac{\pi}{2} ~ \frac{\pi}{2}\text{ rad}
\frac{\sqrt3}{2} ~ \frac{\sqrt{3}}{2}\text{ s}
5\text{ m/s} ~ 5\text{ m s}^{-1}
5\text{ m/s} ~ 5\text{ meters per second}
25\text{ cm}^2 ~ 25\text{ square centimeters}
21\text{ dogs} ~ 21
3e8 ~ 3 \times 10^8\text{ m/s}
.5 ~ \frac{1}{2}\text{ cm}
.5 ~ \$.50
0.25 ~ .25\text{ in}
52_8 ~ 52_{\text{eight}}
30^\circ 15' ~ 30.25^\circ
12 ~ 12\text{ cm}
5 ~ 5\text{ cm squared}
100\pi ~ 100\pi \approx 314\text{ cm}
\frac{n}{2} ~ \frac n2 \text{ where } n \text{ is even}
x = 2k\pi ~ x=2k\pi \text{ with } k\in\mathbb{Z}
f(x)=x ~ f(x)=x \text{ for all real } x
f(n)=n+1 ~ f(n)=n+1 \text{ for every } n \in \mathbb{Z}
3 ~ 3\ \mathrm{kg\,m^{-3}}
3 ~ 3\,\mathrm{m\,s^{-1}}
3 ~ 3\,\mathrm{eV}
3 ~ 3~\text{dB}
3 ~ 3 \text{ km/s/Mpc}
3 ~ 3 \mathrm{~cm}^{3}
3 ~ 3\,\mathrm{ms}
3 ~ 3 \text{ nm}
3 ~ 3 \text{ rad/s}
3 ~ 3 \text{ g/mol}
3 ~ 3^{\circ}
3 ~ 3\,^\circ\text{C}
3 ~ 3\text{ °C}
3 ~ 3\text{ degrees Celsius}
3e8 ~ 3\times10^{8}\,\mathrm{m/s}
1.6e-19 ~ 1.6 \times 10^{-19} \text{ C}
2e3 ~ 2e3\text{ kg}
"""

DIFFERENT = r"""
15\text{ minutes} ~ 15\text{ hours}
45^\circ ~ \frac{\pi}{4}
\text{June 5} ~ June 6
2:30\text{ p.m.} ~ 2:30\text{ a.m.}
5 ~ \text{The answer is } 5
5 ~ \text{not } 5
5 ~ 5 \text{ or so}
5 ~ \text{about } 5
\frac{\pi}{2} ~ 90^\circ
30^\circ ~ \frac{\pi}{6}
\frac{\pi}{6} ~ 30^\circ
5 \text{ km} ~ 5000 \text{ m}
16\text{ ft}^2 ~ 16 \text{ ft}
42 ~ \text{Either } 42 \text{ or } 43
42 ~ \text{I think } 42
42 ~ 42 \text{ probably}
42 ~ \text{maybe }42
2n+1 ~ 2n \text{ (where } n \text{ is a positive integer)}
x=5 ~ x=5 \text{ for all } y
5 ~ 5 \text{ for all } x
5 ~ 5 \text{ if } x>0
3 \text{ if } n \text{ odd} ~ 3
10 ~ 10 \text{ dozen}
5 ~ 5\text{ otherwise } 7
5 ~ 5\text{ hundredths}
5 ~ 5\text{ cubed}
5 ~ 5\text{ halves}
5 ~ 5\text{ factorial}
5 ~ 5\text{ choose } 2
5 ~ 5\text{ times } 2
5 ~ 5\text{ degrees of freedom maybe}
5\text{ mW} ~ 5\text{ MW}
5\text{ m} ~ 5\text{ cm}
25\text{ cm}^2 ~ 25\text{ cm}
21\text{ dogs} ~ 21\text{ cats}
7 ~ $7$ or not
30^\circ 15' ~ 30^\circ 15''
12 ~ 12\text{ or so}
12 ~ \text{roughly }12
5 ~ 5\text{ percent}
5 ~ 5\text{ thousand}
5 ~ 5\text{ hundred}
5 ~ 5\text{ pairs of } 2
5 ~ 5\text{ to } 7
5 ~ 5\text{th}
5 ~ 5\text{ more than }x
5 ~ 5\text{ each}
5 ~ 5\text{ total}
5 ~ 5\text{ plus tax}
5 ~ 5\text{ squared cm}
25 ~ 5\text{ squared}
30^\circ 15' ~ 30^\circ
7 ~ 8\text{ (not 7)}
"""


def test_equal_units_are_correct(grader):
    assert judged_otherwise(grader, EQUAL, reward=1.0) == []


def test_different_units_are_wrong(grader):
    assert judged_otherwise(grader, DIFFERENT, reward=0.0) == []
