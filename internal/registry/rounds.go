//go:build !race

package registry

// passwordRounds of PBKDF2-HMAC-SHA256: what OWASP asks for (Password Storage Cheat Sheet, 2023).
const passwordRounds = 600_000
