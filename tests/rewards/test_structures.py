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
"""


def test_equal_structures_are_correct(grader):
    assert judged_otherwise(grader, EQUAL, reward=1.0) == []


def test_different_structures_are_wrong(grader):
    assert judged_otherwise(grader, DIFFERENT, reward=0.0) == []
