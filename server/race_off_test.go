//go:build !race

package server

// atOnce is how many tests run at once: many wait.
const atOnce = "12"
