/** Vectors compared with each other: how similar they are, and where they lie on a plane. */
import { PCA } from "ml-pca";

/** Returns the cosine of each pair of vectors, [n][n]; of sign vectors it is 1 - 2 * Hamming distance / bits. */
export function similarities(vectors) {
  const norms = vectors.map((vector) => Math.sqrt(dot(vector, vector)) || 1);
  return vectors.map((a, i) => vectors.map((b, j) => dot(a, b) / (norms[i] * norms[j])));
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** Returns each vector's place along the first two principal components, [n][2], and their share of the variance. */
export function plane(vectors) {
  const pca = new PCA(vectors);
  const places = pca.predict(vectors, { nComponents: 2 }).to2DArray();
  const [first, second] = pca.getExplainedVariance();
  return { places, share: first + second };
}
