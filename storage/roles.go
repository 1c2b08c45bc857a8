package storage

// Size returns the size in bytes of the list as JSON text. The database and tokens hold this text.
func (l List) Size() int {
	text, err := l.Value()
	if err != nil {
		return 0
	}
	return len(text.(string))
}
