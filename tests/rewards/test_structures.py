"""Matrices, functions in pieces, congruences, described sets and lists with dots."""

from judging import judged_otherwise

# gold ~ answer, one pair a line
EQUAL = r"""
\begin{pmatrix}1&2\\3&4\end{pmatrix} ~ \begin{bmatrix}1&2\\3&4\end{bmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} ~ \begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}
\begin{pmatrix}1/2&2\\3&4\end{pmatrix} ~ \left(\begin{array}{cc}0.5&2\\3&4\end{array}\right)
\begin{vmatrix}1&2\\3&4\end{vmatrix} ~ -2
\begin{bmatrix} 1 \\ 2 \end{bmatrix} ~ \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\begin{pmatrix} x^2 & 1\\0&1\end{pmatrix} ~ \begin{pmatrix} x\cdot x & 1\\ 0&1\end{pmatrix}
\{x : x > 3\} ~ (3,\infty)
\begin{pmatrix}1\\2\end{pmatrix} ~ \begin{pmatrix}1\\[4pt]2\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} ~ \begin{pmatrix}1&2\\[0.5em]3&4\\\end{pmatrix}
\begin{pmatrix}1/2\\1\end{pmatrix} ~ \frac12\begin{pmatrix}1\\2\end{pmatrix}
\begin{cases}1&x>0\\0&x\le0\end{cases} ~ \begin{cases}0,&\text{if }x\le0\\1&x>0\end{cases}
f(x)=\begin{cases}1&x>0\\0&x\le0\end{cases} ~ \begin{cases}1&0<x\\0&x\le0\end{cases}
x\equiv 3\pmod 5 ~ x\equiv 8 \pmod{5}
x\equiv 3\pmod 5 ~ x \equiv 3 (\text{mod } 5)
x\equiv 3\pmod 5 ~ x \equiv 3\ (\bmod\ 5)
x\equiv 3\pmod 5 ~ 3 \pmod 5
n\equiv 1,2\pmod 3 ~ n \equiv 2, 1 \pmod{3}
\{x : x>3\} ~ (3,\infty)
\{x \mid x>3\} ~ x>3
\{x\in\mathbb{R} \mid x\ne 3\} ~ \mathbb{R}\setminus\{3\}
\{2k \mid k\in\mathbb{Z}\} ~ \{2n : n \in \mathbb{Z}\}
1,2,\ldots,n ~ 1,2,3,\dots,n
\{1,3,5,\ldots\} ~ 1,3,5,\dots
1,2,\ldots,100 ~ 1, 2, ..., 100
x\equiv \pm1\pmod 8 ~ x\equiv 1,7\pmod 8
\begin{bmatrix}1\\2\end{bmatrix} ~ \begin{bmatrix} 1 \\[1ex] 2 \end{bmatrix}
\begin{pmatrix}1\\2\end{pmatrix} ~ \left(\begin{array}{c}1\\[2mm]2\end{array}\right)
x\equiv 3\pmod{5} ~ x\equiv 3 \mod 5
x\equiv 3\pmod{5} ~ x\equiv 3 \bmod 5
x\equiv 3\pmod{5} ~ x\equiv 3 \ (\mathrm{mod}\ 5)
x\equiv 3\pmod{5} ~ x\equiv -2 \pmod 5
3\pmod 5 ~ x \equiv 3\pmod 5
\{x\in\mathbb{R} : x \ge 2\} ~ [2,\infty)
\{x : 1<x<3\} ~ (1,3)
\{x|x<1 \text{ or } x>3\} ~ (-\infty,1)\cup(3,\infty)
\{n^2 : n\in\mathbb{N}\} ~ \{k^2 \mid k \in \mathbb{N}\}
\{(x,y) : x+y=1\} ~ \{(x,y) \mid x+y=1\}
\{x : x \neq 0\} ~ x\ne0
\{3k+1 : k\in\mathbb{Z}\} ~ \{ 1+3m \mid m \in \mathbb{Z} \}
x_1,x_2,\ldots,x_n ~ x_1,x_2,\dots,x_n
(1,2,\ldots,n) ~ (1,2,\ldots,n)
2,4,6,\ldots,2n ~ 2, 4, \ldots, 2n
1,4,9,\ldots,n^2 ~ 1, 4, 9, \cdots, n^2
1+2+\cdots+n ~ 1+2+\ldots+n
-2,-1,0,\ldots ~ -2,-1,0,1,\ldots
"""

DIFFERENT = r"""
\begin{pmatrix}1&2\\3&4\end{pmatrix} ~ \begin{pmatrix}1&3\\2&4\end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} ~ \begin{pmatrix}1&2\end{pmatrix}
(2,3) ~ \begin{pmatrix}2\\3\end{pmatrix}
3 \pmod 5 ~ 3
7 ~ 7 \pmod{10}
\begin{bmatrix} 1 \\ 2 \end{bmatrix} ~ \begin{bmatrix} 2 \\ 1 \end{bmatrix}
\begin{pmatrix}1/2\\1\end{pmatrix} ~ \begin{pmatrix}1\\2\end{pmatrix}
\begin{cases}1&x>0\\0&x\le0\end{cases} ~ \begin{cases}0&x>0\\1&x\le0\end{cases}
x\equiv 3\pmod 5 ~ 3
x\equiv 3\pmod 5 ~ y\equiv 3\pmod 5
n\equiv 1,2\pmod 3 ~ n \equiv 1 \pmod{3}
\{x\in\mathbb{Z} \mid x>3\} ~ (3,\infty)
\{2k \mid k\in\mathbb{Z}\} ~ \{3k : k \in \mathbb{Z}\}
\{2k \mid k\in\mathbb{Z}\} ~ \{2k : k \in \mathbb{N}\}
1,2,\ldots,n ~ 1,2,3,\dots,m
1,2,4,\ldots ~ 1,2,3,\ldots
1,3,\ldots ~ 1,3,5,\ldots
5 ~ 5\text{ mod }7
x\equiv 1 \pmod 4 ~ x=1
x\equiv 1\pmod 4 ~ x\equiv 1 \pmod 8
x\equiv \pm1\pmod 8 ~ x\equiv 1\pmod 8
\{x\mid x<2\} ~ \{x\mid x\le 2\}
\{n^2 \mid n\in\mathbb{N}\} ~ \{n \mid n\in\mathbb{N}\}
1,2,3,\ldots,10 ~ 1,2,3,\ldots
1,2,3,\ldots,10 ~ 1,3,\ldots,10
2,4,8,\ldots ~ 2,4,6,\ldots
a_1,a_2,\ldots ~ b_1,b_2,\ldots
1+2+\ldots+n ~ 1+2+\ldots+m
\begin{pmatrix}1&2\end{pmatrix} ~ \begin{pmatrix}2&1\end{pmatrix}
\begin{pmatrix}1&2\end{pmatrix} ~ (1,2)
\begin{pmatrix}1&2\\3&4\end{pmatrix} ~ \begin{vmatrix}1&2\\3&4\end{vmatrix}
7 ~ 7 \ldots
7 ~ \ldots 7
7 ~ \begin{cases}7\\8\end{cases}
7 ~ \begin{matrix}7&8\end{matrix}
7 ~ 7.0\ldots1
"""


def test_equal_structures_are_correct(grader):
    assert judged_otherwise(grader, EQUAL, reward=1.0) == []


def test_different_structures_are_wrong(grader):
    assert judged_otherwise(grader, DIFFERENT, reward=0.0) == []
