"""What prompts are about, so that what goes wrong on one subject is not averaged away. Pure.

TF-IDF and k-means: words in common, nothing learned, the same on every machine. Left out: meaning. Two questions on
one subject in different words, or in two languages, may part; an embedding would be one more model to load and trust.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: The cluster of prompts that ship with honed, and that of prompts without a word to go by.
SHIPPED, OTHER = "shipped", "other"
#: Terms that name a cluster.
TERMS = 2
#: Different terms looked at, the most frequent ones.
VOCABULARY = 4096


def cluster_prompts(texts: Sequence[str], count: int) -> list[str]:
    """The name of each text's cluster, in order: the two heaviest terms of its centre, "bread-oven" say.

    At most `count` clusters, fewer where fewer texts differ. The same texts give the same names.
    """
    # Slow to load, and of use only once per iteration.
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True, max_features=VOCABULARY)
    words = vectorizer.build_analyzer()
    named = [bool(words(text)) for text in texts]
    spoken = [text for text, has_words in zip(texts, named, strict=True) if has_words]
    if not spoken:
        return [OTHER] * len(texts)
    vectors = vectorizer.fit_transform(spoken).toarray()
    groups = min(max(1, count), len(np.unique(vectors, axis=0)))
    found = KMeans(groups, n_init=8, random_state=0).fit(vectors)
    names = _names(found.cluster_centers_, list(vectorizer.get_feature_names_out()))
    labels = iter(found.labels_.tolist())
    return [names[next(labels)] if has_words else OTHER for has_words in named]


def _names(centers: npt.NDArray[np.float64], terms: Sequence[str]) -> list[str]:
    """A different name for each centre (clusters, terms); a name that is taken gets a number."""
    names: list[str] = []
    for center in centers:
        # Ties in the order of the alphabet.
        heaviest = [at for at in np.argsort(-center, kind="stable")[:TERMS] if center[at] > 0]
        name = wanted = "-".join(terms[at] for at in heaviest)
        number = 2
        while name in names or name in (SHIPPED, OTHER):
            name, number = f"{wanted}-{number}", number + 1
        names.append(name)
    return names
