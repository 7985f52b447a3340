// Package arch holds the tree to docs/architecture.md: who may import whom, a comment for every package, and the map
// from the manual's sentences to code and tests (docs/seed-map.md). It consists of tests.
package arch
