package bench

import (
	"fmt"
	"io"
)

// An Attach is bulk and moves by each attachment.
type Attach struct {
	Bulk  []AttachBulk  `json:"bulk"`
	Moves []AttachMoves `json:"moves"`
}

// An AttachBulk is the bulk traffic of one connection in one direction.
type AttachBulk struct {
	Direction string                     `json:"direction"` // the program's: send or receive
	Places    map[string]AttachBulkPlace `json:"places"`
}

// An AttachBulkPlace is that traffic in one place, medians of the rounds.
type AttachBulkPlace struct {
	Refused string `json:"refused,omitempty"` // why there are no figures
	BulkPlace
}

func newAttachBulk(direction string, rates map[string][]rate, refused map[string]string) AttachBulk {
	b := AttachBulk{direction, map[string]AttachBulkPlace{}}
	for _, place := range places {
		p := AttachBulkPlace{Refused: refused[place]}
		if p.Refused == "" {
			p.BulkPlace = medianRate(rates[place])
		}
		b.Places[place] = p
	}
	return b
}

// AttachMoves are the moves of connections under one load, by attachment.
type AttachMoves struct {
	Load        string                `json:"load"`
	Attachments map[string]AttachMove `json:"attachments"`
}

// An AttachMove is what moves took; of many connections at once the whole by
// their number, and the longest stall of one.
type AttachMove struct {
	Refused string `json:"refused,omitempty"` // why there are no figures
	Offload Move   `json:"offload"`
	Upload  Move   `json:"upload"`
}

// attachTables print Markdown.
func (r *Report) attachTables(w io.Writer) error {
	if r.Attach == nil {
		return nil
	}
	var notes []string
	fmt.Fprintf(w, "\nBulk of one connection by the program's direction, Gbit/s, in brackets the machine's CPU in s/GB.\n\n")
	if err := markdown(w, append([]string{"bulk"}, places...), r.Attach.bulkRows(&notes)); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nMoves, µs each: p50, p99 of the time; p50, p99 of the stall.\n\n")
	columns := []string{"moves"}
	for _, place := range places[1:] {
		columns = append(columns, "kernel to "+place, place+" to kernel")
	}
	if err := markdown(w, columns, r.Attach.moveRows(&notes)); err != nil {
		return err
	}
	return notesUnder(w, notes)
}

func (a *Attach) bulkRows(notes *[]string) (rows [][]string) {
	for _, b := range a.Bulk {
		row := []string{b.Direction}
		for _, place := range places {
			p := b.Places[place]
			cell := fmt.Sprintf("%.1f (%.2f)", p.Gbits, p.MachineCPU)
			if p.Refused != "" {
				cell = "refused"
				*notes = append(*notes, fmt.Sprintf("%s, bulk: refused: %s", place, p.Refused))
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	return rows
}

func (a *Attach) moveRows(notes *[]string) (rows [][]string) {
	for _, m := range a.Moves {
		row := []string{m.Load}
		for _, place := range places[1:] {
			p := m.Attachments[place]
			if p.Refused != "" {
				*notes = append(*notes, fmt.Sprintf("%s, moves: refused: %s", place, p.Refused))
				row = append(row, "refused", "refused")
				continue
			}
			row = append(row, p.Offload.cell(), p.Upload.cell())
		}
		rows = append(rows, row)
	}
	return rows
}

func (m Move) cell() string {
	return fmt.Sprintf("%d, %d; %d, %d", m.Took.P50, m.Took.P99, m.Stall.P50, m.Stall.P99)
}
