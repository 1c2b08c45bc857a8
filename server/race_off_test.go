//go:build !race

package server

// atOnce is how many tests run at once: many wait.
const atOnce = "12"

// flood is how many fetches are invented.
const flood = 1_000_000
