package server

import "strings"

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, " ")
	return word
}
