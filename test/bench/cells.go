package main

import (
	"fmt"
	"slices"
	"strings"
)

// The kinds of cells.
const (
	kindClosed   = "closed"
	kindOpen     = "open"
	kindOpenSame = "open-same"
	kindPush     = "push"
	kindMix      = "mix"
)

// calibrated is how many closed-loop callers give the rate that open loops take
// a share of; sameAs is whose rate it is where all get the same.
const (
	calibrated = 64
	sameAs     = "grpc-unary"
)

// maxOnTheWay bounds the payloads of all callers of a closed loop together, in
// bytes. With more, one round of calls takes longer than a sample, the cell a
// minute, and NATS's client drops replies.
const maxOnTheWay = 64 << 20

// cell is one situation in which the contestants are compared.
type cell struct {
	name     string
	about    string
	kind     string
	callers  int
	size     int // of a payload, both ways
	percent  int // of the closed-loop rate; open loops
	headline string
	quick    bool // part of -quick
	load     load
}

// quickCells are part of -quick.
var quickCells = []string{
	"closed/64B/1", "closed/64B/64", "closed/64B/1024", "closed/1KiB/64", "closed/16KiB/64", "closed/256KiB/16",
	"open-same/64B/60", "push/64B/1", "push/64B/64", "mix/same",
}

// allCells are the cells in the order in which they run: closed loops first,
// whose rates the open loops use.
func allCells() []cell {
	var cells []cell
	for _, size := range []int{64, 1 << 10, 4 << 10, 16 << 10, 256 << 10, 4 << 20} {
		for _, n := range []int{1, 16, 64, 256, 1024} {
			if n*size > maxOnTheWay {
				continue
			}
			c := cell{kind: kindClosed, callers: n, size: size, headline: mRate, load: closedLoad(n, size)}
			c.name = fmt.Sprintf("%s/%s/%d", c.kind, bytesText(size), n)
			c.about = fmt.Sprintf("closed loop, callers: %d, %s each way", n, bytesText(size))
			if n == 1 {
				c.headline = mP50
			}
			cells = append(cells, c)
		}
	}
	for _, percent := range []int{30, 60, 90} {
		cells = append(cells, openCell(kindOpen, 64, percent))
	}
	for _, percent := range []int{30, 60, 90} {
		cells = append(cells, openCell(kindOpenSame, 64, percent))
	}
	cells = append(cells, openCell(kindOpen, 1<<10, 60), openCell(kindOpenSame, 1<<10, 60))
	for _, size := range []int{64, 1 << 10} {
		for _, n := range []int{1, 64} {
			c := cell{kind: kindPush, callers: n, size: size, headline: mRate, load: pushLoad(n, size)}
			c.name = fmt.Sprintf("%s/%s/%d", c.kind, bytesText(size), n)
			c.about = fmt.Sprintf("pushes of %s, senders: %d", bytesText(size), n)
			cells = append(cells, c)
		}
	}
	for _, where := range []string{"same", "other"} {
		cells = append(cells, cell{
			name: kindMix + "/" + where, kind: kindMix, callers: mixSmall, size: mixSmallSize, headline: mP99, load: mixLoad(where == "other"),
			about: fmt.Sprintf("%d callers of %s while %d callers move %s to the %s target", mixSmall, bytesText(mixSmallSize), mixLarge, bytesText(mixLargeSize), where),
		})
	}
	for i := range cells {
		cells[i].quick = slices.Contains(quickCells, cells[i].name)
	}
	return cells
}

func openCell(kind string, size, percent int) cell {
	c := cell{kind: kind, callers: calibrated, size: size, percent: percent, headline: mP99}
	c.name = fmt.Sprintf("%s/%s/%d", kind, bytesText(size), percent)
	whose := "of its own"
	if kind == kindOpenSame {
		whose = "of " + sameAs + "'s"
	}
	c.about = fmt.Sprintf("open loop, %s, %d %% %s closed-loop rate (%d callers)", bytesText(size), percent, whose, calibrated)
	share := float64(percent) / 100
	c.load = openLoad(func(b *bout) float64 { return b.closedRate * share }, size)
	return c
}

func bytesText(n int) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return fmt.Sprintf("%dB", n)
}

// chooseCells takes patterns as in path.Match, separated by commas; a pattern of
// leading elements takes all below. Without patterns, quick leaves a few.
func chooseCells(patterns string, quick bool) ([]cell, error) {
	var chosen []cell
	for _, c := range allCells() {
		ok, err := matches(patterns, c.name)
		if err != nil {
			return nil, err
		}
		if ok && (c.quick || !quick || patterns != "") {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no cell matches %q: see -list", strings.TrimSpace(patterns))
	}
	return chosen, nil
}

// excludes says why a contestant cannot run a cell; "" where it can.
func (c cell) excludes(who contestant) string {
	if c.kind == kindPush && !who.pushes {
		return "it has no pushes"
	}
	return ""
}
