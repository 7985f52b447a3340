//go:build race

package registry

// Under the race detector, which nothing is shipped with, 600,000 rounds take two seconds, and a password is hashed for every data folder.
const passwordRounds = 6_000
