package main

import (
	"fmt"
	"strconv"
	"time"
)

// scale has the figures of the large database that the sizing needs.
type scale struct {
	grant   int64         // bytes of a grant, with indexes
	log     int64         // bytes of log of a refresh, right after a checkpoint
	inPlace float64       // share of refreshes that rewrite their row in place, in percent
	cleanUp time.Duration // CPU time of PostgreSQL to delete a grant
}

// prices are all that the sizing depends on, as precise as the tables show them.
type prices struct {
	scale
	replica, postgres time.Duration // CPU time of a refresh in the large database
	signature         time.Duration // S
}

func (f *figures) prices() prices {
	refreshes := f.samples["refresh, large"]
	return prices{
		scale:     f.scale,
		replica:   medianOf(refreshes, serverTime).Round(time.Microsecond),
		postgres:  medianOf(refreshes, databaseTime).Round(time.Microsecond),
		signature: medianOf(f.samples["S"], serverTime).Round(time.Microsecond),
	}
}

func (f *figures) sizingText() string {
	if f.scale == (scale{}) || len(f.samples["refresh, large"]) == 0 {
		return ""
	}
	return f.prices().sizing()
}

const (
	refreshesADay = 4 // of each grant
	peakFactor    = 4 // refreshes at peak, relative to the average
)

// sizing is the arithmetic of the section about sizing.
func (p prices) sizing() string {
	text := fmt.Sprintf(
		"One grant takes %d bytes, with indexes. %.1f %% of refreshes rewrite the row in place (HOT).\n"+
			"A refresh costs %s ms of a replica and %s ms of PostgreSQL, on a machine with an S of %s ms.\n"+
			"With `wal_compression=lz4` it writes %d bytes of log right after a checkpoint, when it also writes\n"+
			"the page. Clean-up deletes a grant for %s of database CPU, in batches of a thousand.\n\n"+
			"The table is arithmetic with these prices: %d refreshes a day for each grant, and at peak\n"+
			"%d times as many.\n\n",
		p.grant,
		p.inPlace,
		ms(p.replica),
		ms(p.postgres),
		ms(p.signature),
		p.log,
		cleanUpText(p.cleanUp),
		refreshesADay,
		peakFactor,
	)
	var rows [][]string
	for _, millions := range []float64{1, 5, 100} {
		rows = append(rows, p.sizingRow(millions))
	}
	return text + table(
		[]string{
			"grants",
			"database",
			"refreshes/s",
			"replica cores",
			"PostgreSQL cores",
			"MB/s of log after a checkpoint",
		},
		rows,
	)
}

func (p prices) sizingRow(millions float64) []string {
	refreshes := millions * 1e6 * refreshesADay / (24 * time.Hour).Seconds()
	both := func(each float64) string {
		return rounded(refreshes*each) + ", peak " + rounded(refreshes*each*peakFactor)
	}
	return []string{
		rounded(millions) + " million",
		rounded(millions*1e6*float64(p.grant)/1e9) + " GB",
		both(1),
		both(p.replica.Seconds()),
		both(p.postgres.Seconds()),
		both(float64(p.log) / 1e6),
	}
}

// cleanUpText formats the price of a clean-up, which is a few microseconds.
func cleanUpText(d time.Duration) string { return fmt.Sprintf("%.4f ms", d.Seconds()*1000) }

// rounded formats a number with two significant digits.
func rounded(x float64) string {
	short, _ := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 2, 64), 64)
	return strconv.FormatFloat(short, 'f', -1, 64)
}
