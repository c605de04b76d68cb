"""Heads that say a distribution: numbers of the network in, its parameters, likelihood, quantiles and draws out.

Letters: B rows, K numbers a lead, H lead times, Q quantile levels. Raw numbers are (B, K, H), targets and what is known of them (B, H).
Units are the target's own; logarithms are natural, so losses are nats.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.special import gammaln, ndtri

# Least scale, and least excess of Student's degrees of freedom over 2. A series that repeats itself pulls the scale to 0 and its
# likelihood to infinity; here it ends at 6 nats.
FLOOR = 1e-3
LEAST_MEAN = 1e-6  # of counts: a series of zeros; its loss is bounded by 14 nats a count
# Least dispersion: at a mean of 100 the variance is 101. A hundred times less, and `beta_share` takes five times the steps.
LEAST_DISPERSION = 1e-4
FURTHEST = 1e-9  # level of a draw, from either end: a draw further out comes twice in a billion
ROUNDING = 1e-14
STEPS = 1_000  # of a continued fraction, at most; shapes up to 1e4, with counts up to 1e8, take 130


def mean_over(nats: Tensor, known: Tensor) -> Tensor:
    """Mean of (B, H) over what is known."""
    return (nats * known).sum() / known.sum().clamp(min=1)


class Distribution(ABC):
    """What a head of numbers is asked."""

    outputs: ClassVar[int]  # K

    @abstractmethod
    def parameters(self, raw: Tensor) -> tuple[Tensor, ...]:
        """(B, K, H) -> K tensors (B, H), in their ranges whatever the network says."""

    @abstractmethod
    def nats(self, raw: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood (B, H)."""

    @abstractmethod
    def point(self, raw: Tensor) -> Tensor:
        """The mean (B, H)."""

    @abstractmethod
    def at(self, raw: Tensor, levels: Tensor) -> Tensor:
        """Levels in (0, 1), float64, that broadcast to (B, Q, H) -> the values (B, Q, H) that they are of."""

    def loss(self, raw: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """Negative log-likelihood, mean over what is known; what stands in an unknown target's place, NaN too, is not looked at."""
        return mean_over(self.nats(raw, torch.where(known > 0, target, 0.0)), known)

    def quantiles(self, raw: Tensor, levels: Sequence[float]) -> Tensor:
        """(B, K, H) -> (B, Q, H), ascending as the levels are. Without gradient."""
        if list(levels) != sorted(set(levels)) or not all(0 < level < 1 for level in levels):
            raise ValueError(f"levels are {tuple(levels)}, want them ascending between 0 and 1")
        with torch.no_grad():
            marks = torch.tensor(levels, dtype=torch.float64, device=raw.device)[None, :, None]
            # A method that ends within rounding of the truth may swap two levels that are as near.
            return self.at(raw, marks).cummax(1).values

    def sample(self, raw: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """(B, K, H) -> `count` draws (B, count, H), by inversion: leads are drawn independently of each other."""
        with torch.no_grad():
            shape = (len(raw), count, raw.shape[2])
            drawn = torch.rand(shape, dtype=torch.float64, device=raw.device, generator=generator)
            return self.at(raw, drawn.clamp(FURTHEST, 1 - FURTHEST))


class Gaussian(Distribution):
    """A normal: location and scale."""

    outputs = 2

    def parameters(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        return raw[:, 0], FLOOR + softplus(raw[:, 1])

    def nats(self, raw: Tensor, target: Tensor) -> Tensor:
        centre, scale = self.parameters(raw)
        z = (target - centre) / scale
        return 0.5 * z * z + scale.log() + 0.5 * math.log(2 * math.pi)

    def point(self, raw: Tensor) -> Tensor:
        return raw[:, 0]

    def at(self, raw: Tensor, levels: Tensor) -> Tensor:
        centre, scale = (p[:, None].double() for p in self.parameters(raw))
        quantiles: Tensor = centre + scale * ndtri(levels)
        return quantiles.to(raw.dtype)


class StudentT(Distribution):
    """Student's t: location, scale and degrees of freedom; more than 2, so that it has a variance."""

    outputs = 3

    def parameters(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return raw[:, 0], FLOOR + softplus(raw[:, 1]), 2 + FLOOR + softplus(raw[:, 2])

    def nats(self, raw: Tensor, target: Tensor) -> Tensor:
        # In float64: of two gammaln of a thousand degrees float32 keeps no digit of the difference.
        centre, scale, freedom = self.parameters(raw.double())
        return (scale.log() - student_log_density((target.double() - centre) / scale, freedom)).to(raw.dtype)

    def point(self, raw: Tensor) -> Tensor:
        return raw[:, 0]

    def at(self, raw: Tensor, levels: Tensor) -> Tensor:
        centre, scale, freedom = (p[:, None] for p in self.parameters(raw.double()))
        return (centre + scale * student_quantile(levels, freedom)).to(raw.dtype)


class NegativeBinomial(Distribution):
    """Counts: mean m and dispersion a, variance m + a m^2 (DeepAR, Salinas et al. 2020, section 3.1, without its scale):

    p(z) = G(z + 1/a) / (G(z + 1) G(1/a)) (1 / (1 + a m))^(1/a) (a m / (1 + a m))^z.
    """

    outputs = 2

    def parameters(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        return LEAST_MEAN + softplus(raw[:, 0]), LEAST_DISPERSION + softplus(raw[:, 1])

    def nats(self, raw: Tensor, target: Tensor) -> Tensor:
        mean, dispersion = self.parameters(raw.double())  # as for Student's
        count, shape, spread = target.double(), 1 / dispersion, torch.log1p(dispersion * mean)
        ways: Tensor = gammaln(count + shape) - gammaln(count + 1) - gammaln(shape)
        return ((shape + count) * spread - count * (dispersion * mean).log() - ways).to(raw.dtype)

    def point(self, raw: Tensor) -> Tensor:
        return self.parameters(raw)[0]

    def at(self, raw: Tensor, levels: Tensor) -> Tensor:
        """The least count whose share of the distribution, up to and with it, reaches the level; by halving."""
        mean, dispersion = (p[:, None] for p in self.parameters(raw.double()))
        shape, odds = 1 / dispersion, dispersion * mean
        # Cantelli's inequality: no quantile is further above the mean than deviation * sqrt(level / (1 - level)).
        deviation, far = (mean + dispersion * mean**2).sqrt(), levels.max()
        high = (mean + deviation * (far / (1 - far)).sqrt()).ceil() + torch.zeros_like(levels)
        low = torch.full_like(high, -1.0)  # below the level, always; `high` reaches it, always
        while bool((high - low > 1).any()):
            middle = ((low + high) / 2).floor()
            reached = (beta_share(shape, middle.clamp(min=0) + 1, 1 / (1 + odds), odds / (1 + odds)) >= levels) & (middle > low)
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        return high.to(raw.dtype)


class Categorical:
    """One of K classes, by a softmax. Classes have no order, so there are no quantiles; the point is the likeliest class."""

    def __init__(self, classes: int) -> None:
        self.outputs = classes  # K

    def parameters(self, raw: Tensor) -> Tensor:
        """(B, K, H) -> probabilities (B, K, H)."""
        return raw.softmax(1)

    def nats(self, raw: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy (B, H) of classes (B, H), integers."""
        return raw.logsumexp(1) - raw.gather(1, target[:, None])[:, 0]

    def loss(self, raw: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """Cross-entropy, mean over what is known; any integer may stand in an unknown class's place."""
        return mean_over(self.nats(raw, torch.where(known > 0, target, 0)), known)

    def point(self, raw: Tensor) -> Tensor:
        """(B, H), the first of the likeliest."""
        return raw.argmax(1)

    def accuracy(self, raw: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """Share of what is known whose class is the point."""
        return mean_over((self.point(raw) == target).to(raw.dtype), known)

    def sample(self, raw: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
        """A draw (B, H) from softmax(raw / temperature); at 0 the point, and above it the closer to it the cooler."""
        if not temperature >= 0:
            raise ValueError(f"temperature is {temperature}, want 0 or more")
        if temperature == 0:
            return self.point(raw)
        with torch.no_grad():
            logits = (raw - raw.amax(1, keepdim=True)).double() / temperature  # the largest is 0, at any temperature
            drawn = torch.multinomial(logits.softmax(1).movedim(1, -1).flatten(0, 1), 1, generator=generator)
            return drawn.view(len(raw), raw.shape[2])


def student_log_density(z: Tensor, freedom: Tensor) -> Tensor:
    """Log of the standard Student's density; float64."""
    half = freedom / 2
    height: Tensor = gammaln(half + 0.5) - gammaln(half) - (math.pi * freedom).log() / 2
    return height - (half + 0.5) * torch.log1p(z * z / freedom)


def student_quantile(level: Tensor, freedom: Tensor) -> Tensor:
    """Where the standard Student's distribution function is `level`; both float64, broadcast together; to 1e-9 of itself or better.

    Newton's method for the log of the tail over the log of the place, where the tail is nearly a straight line: it begins at the
    normal's quantile, which is nearer the middle, and after one step comes down from the other side.

    >>> two = torch.tensor(2.0, dtype=torch.float64)
    >>> round(float(student_quantile(torch.tensor(0.9, dtype=torch.float64), two)), 12), round(0.8 * (2 * 0.9 * 0.1) ** -0.5, 12)
    (1.885618083164, 1.885618083164)
    """
    tail = torch.minimum(level, 1 - level)
    z = (-ndtri(tail)).clamp(min=1e-300)
    for _ in range(8):
        square = z * z
        beyond = 0.5 * beta_share(freedom / 2, torch.full_like(freedom, 0.5), freedom / (freedom + square), square / (freedom + square))
        z = z * ((beyond / tail).log() * beyond / (z * student_log_density(z, freedom).exp())).exp()
    return torch.where(level == 0.5, 0.0, torch.where(level < 0.5, -z, z))  # noqa: PLR2004 -- the middle


def beta_share(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The regularised incomplete beta function I_x(a, b), y = 1 - x; float64, broadcast together, without gradient.

    By its continued fraction (DLMF 8.17.22), from the side where it converges fast, evaluated by Lentz's method (Thompson & Barnett 1986).
    To 1e-8: that is what the gamma functions of a million leave.
    """
    a, b, x, y = torch.broadcast_tensors(a, b, x, y)  # type: ignore[no-untyped-call]
    turned = x > (a + 1) / (a + b + 2)
    a, b, x, y = torch.where(turned, b, a), torch.where(turned, a, b), torch.where(turned, y, x), torch.where(turned, x, y)
    tiny = 1e-300  # in a zero denominator's place
    c, d = torch.ones_like(x), 1 / _not_zero(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, STEPS):
        for term in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 / _not_zero(1 + term * d, tiny)
            c = _not_zero(1 + term / c, tiny)
            fraction = fraction * c * d
        if not bool(((c * d - 1).abs() > ROUNDING).any()):  # what is NaN stays so, and is not waited for
            break
    log_front = a * x.log() + b * y.log() + gammaln(a + b) - gammaln(a) - gammaln(b)
    share = log_front.exp() * fraction / a
    return torch.where(turned, 1 - share, share)


def _not_zero(x: Tensor, tiny: float) -> Tensor:
    return torch.where(x.abs() < tiny, tiny, x)
