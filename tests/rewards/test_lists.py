"""Lists, sets, tuples, intervals and ratios: what order and repetition mean in each."""

from judging import judged_otherwise

# gold ~ answer, one pair a line
EQUAL = r"""
(1,2) ~ \left(1, 2\right)
(1,2) ~ (1.0,\frac{4}{2})
(1,2),(3,4) ~ (3,4),(1,2)
\{1,2,3\} ~ \{3,2,1\}
\{1,2,3\} ~ 1,2,3
1,2,3 ~ \{3,1,2\}
1,2 ~ 1 \text{ and } 2
1,2 ~ 1 \text{ or } 2
\pm 2 ~ 2,-2
1\pm\sqrt5 ~ 1+\sqrt5, 1-\sqrt5
\frac{1\pm\sqrt5}{2} ~ \frac{1-\sqrt{5}}{2},\frac{1+\sqrt{5}}{2}
[0,1) ~ [0, 1)
(0,1)\cup(2,3) ~ (2,3)\cup(0,1)
\mathbb{R}\setminus\{1\} ~ (-\infty,1)\cup(1,\infty)
\mathbb{R} ~ (-\infty,\infty)
(-\infty,\infty) ~ \mathbb{R}
[0,\infty) ~ [0,+\infty)
\emptyset ~ \varnothing
\emptyset ~ \{\}
[1-\sqrt8,2] ~ [1-2\sqrt2,2]
[a,b] ~ [a,b]
B,C ~ C,B
7:32 ~ 7/32
7:32 ~ 14:64
3 \text{ and } 5 ~ 3,5
3,5,7 ~ 3, 5, and 7
3,5,7 ~ 3;5;7
(3,5) ~ (3, 5)
\left[-1,1\right] ~ [-1,1]
2+2\sqrt{2}, 2-2\sqrt2 ~ 2\pm2\sqrt{2}
2,3,5,7 ~ \text{2, 3, 5, 7}
\{1\} ~ 1
1 ~ \{1\}
2,-2 ~ \pm2
1,2,3 ~ (1,2,3)
\frac{1}{2},\frac{1}{3} ~ 0.5 and 1/3
\langle 1,2\rangle ~ \langle 1, 2 \rangle
1:2:3 ~ 2:4:6
\max(2,3) ~ 3
\gcd(12,18) ~ 6
\varnothing ~ \emptyset
42 ~ 42\text{ or }42
(.5,.25) ~ (\frac12,\frac14)
\{1,2\} ~ ｛1，2｝
2,2,3 ~ 3,2,2
(1,2),(1,2),(3,4) ~ (1,2),(3,4)
\{1,1,2\} ~ \{1,2\}
\max(x,y) ~ \max(y,x)
1,2,2 ~ 2,1,2
A\cup B ~ B\cup A
(3,4) ~ （3, 4）
[1,2] ~ ［1，2］
\{1,2\} ~ \{1，2\}
3,4 ~ 3，4
"""

DIFFERENT = r"""
5 ~ 5,5
(1,2) ~ \{1,2\}
(1,2) ~ [1,2]
(1,2) ~ (1,2]
(1,2,3) ~ (1,3,2)
(1,2),(3,4) ~ (2,1),(3,4)
2 ~ 2 \text{ or } 3
2 ~ 2, 3
2 ~ 2 or 3
1,2 ~ 1
1,2 ~ 1,2,3
\pm 2 ~ 2
2 ~ \pm 2
[0,1] ~ [0,1)
(0,1)\cup(2,3) ~ (0,1)\cap(2,3)
[a,b] ~ [a, b)
3:4 ~ 4:3
12:00 ~ 1:00
(2,3) ~ (2,3),(3,2)
(2,3),(3,2) ~ (2,3)
1,2,3 ~ (3,2,1)
1:2:3 ~ 1:3:2
42 ~ 42;43
42 ~ 42 \pm 1
42 ~ \{42, 43\}
2,2,3 ~ 2,3,3
16,3,1 ~ 16,3,1,1
5,5 ~ 5
AB:CD ~ AB-CD
u(x,0) ~ u(0,x)
[6,31,-1) ~ (6,31,-1)
(1,2,3] ~ (1,2,3)
\min(x,3) ~ 3
1,2,2 ~ 1,2
(1,1) ~ 1
(1,1) ~ 1,1,1
3,3 ~ (3,3),(3,3)
\{1,2\} ~ (1,2)
[1,2] ~ \{1,2\}
[0,1)\cup(2,3] ~ [0,1]\cup(2,3]
(1,2] ~ [1,2)
(1,2,3) ~ [1,2,3)
(1,2,3) ~ (1,2,3]
(1,2,3) ~ \{1,2,3\}
A:B:C ~ A:C:B
5 ~ 5 \text{ or } 6
2 ~ 1 \text{ and } 2
1.5 ~ 1,5
A\cup B ~ A\cap B
A\setminus B ~ B\setminus A
7 ~ 7;8
7 ~ \{7\}\cup\{8\}
7 ~ 7 \text{ (or 8)}
7 ~ \text{7 or 8}
7 ~ 7\pm 1
7 ~ \max(7,8)
7 ~ \frac{7}{1}\text{ or }8
\sqrt{2} ~ \sqrt2 \approx 1.5 \text{ or } 3
"""


def test_equal_lists_are_correct(grader):
    assert judged_otherwise(grader, EQUAL, reward=1.0) == []


def test_different_lists_are_wrong(grader):
    assert judged_otherwise(grader, DIFFERENT, reward=0.0) == []
