"""Clustering: texts in groups without given labels (k-means). Give a number of groups, or try the example's number."""

import sys

from sklearn.cluster import KMeans

from client import embed, run

TEXTS = [
    "The striker scored twice in the last ten minutes.",
    "Rain is expected in the north until Friday evening.",
    "Fold the egg whites into the chocolate, then chill it.",
    "The goalkeeper saved a penalty and his team won the cup.",
    "Strong winds and snow closed the mountain passes.",
    "Simmer the onions until they are soft, then add the rice.",
    "The coach changed three players at half-time.",
    "A warm front brings sunshine and twenty-five degrees.",
    "Bake the bread for forty minutes and let it cool.",
]
GROUPS = 3


def main() -> None:
    """Print each group, its most typical text first."""
    vectors = embed(TEXTS, "clustering")
    groups = int(sys.argv[1]) if sys.argv[1:] else GROUPS
    model = KMeans(groups, n_init=10, random_state=0).fit(vectors)
    distances = model.transform(vectors)
    for group in range(groups):
        print(f"group {group + 1}")
        members = [position for position, label in enumerate(model.labels_) if label == group]
        for position in sorted(members, key=lambda member: float(distances[member, group])):
            print(f"  {distances[position, group]:.4f}  {TEXTS[position]}")


if __name__ == "__main__":
    run(main)
