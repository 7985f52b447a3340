package main

import "fmt"

// inLanguage returns what says our texts in a language, with arguments as fmt has them.
func inLanguage(lang string) func(text string, args ...any) string {
	return func(text string, args ...any) string {
		if ja, ok := japanese[text]; ok && lang == "ja" {
			text = ja
		}
		if len(args) == 0 {
			return text
		}
		return fmt.Sprintf(text, args...)
	}
}

// japanese has every text of status.
var japanese = map[string]string{
	"host ID:": "ホスト識別子:", "origin:": "由来:", "provisional:": "暫定:", "pending:": "判断待ち:", "store %s:": "保管先 %s:", "hardware:": "ハードウェア:",
	"AMT settings:": "AMT の設定:", "higher system:": "上位システム:", "last check-in:": "最終通信:", "last accepted:": "最終受理:", "enrolment:": "登録:",
	"last error:": "最終エラー:", "why generated:": "生成の理由:", "conflict:": "競合:", "open order:": "未完了の指示:", "failed order:": "失敗した指示:", "order done:": "完了した指示:",
	"none": "なし", "never": "なし",

	"full service, but the host ID is not safe yet: it is not stored, or a conflict waits": "通常どおり動作しますが、ホスト識別子がまだ保存されていないか、未解決の競合があります",
	"the board sits in another case; an operator at the manager decides":                   "ボードが別の筐体に入っています。マネージャの管理者が判断します",
	"facts cannot be read: %s":             "情報を読めません: %s",
	"version %d of the manager, by %s, %s": "マネージャの版 %d、%s による、%s",
	"the manager took them back, %s":       "マネージャが取り消しました、%s",
	"pending: %s":                          "未完了: %s",
	enrolmentPending:                       "報告は中継システムが保管していますが、マネージャはこの PC をまだ受理していません。中継システムがマネージャに接続すると完了します",
	"stored at a relay, not accepted yet":  "中継システムが保管、未受理",
	"accepted":                             "受理",
	"%s waits: %s":                         "%s 待機中: %s",

	"memory of another board":        "別のボードのメモリ",
	"another host ID in memory":      "メモリに別のホスト識別子",
	"disk moved or board replaced":   "ディスクの移動またはボードの交換",
	"board in another case":          "ボードが別の筐体にある",
	"one host ID with two keys":      "一つのホスト識別子に二つの鍵",
	"stores with different host IDs": "保管先ごとに異なるホスト識別子",

	"take a new host ID (new-id)":                                "新しいホスト識別子を取得する (new-id)",
	"take the former host ID back (take-back)":                   "以前のホスト識別子に戻す (take-back)",
	"keep the host ID on this hardware (rebind)":                 "このハードウェアでホスト識別子を保つ (rebind)",
	"take the host ID from nonvolatile memory (use-nonvolatile)": "不揮発性メモリのホスト識別子を使用する (use-nonvolatile)",
	"begin a new chain of reports (new-epoch)":                   "報告を新しく開始する (new-epoch)",
	"send a full report (full-report)":                           "完全な報告を送る (full-report)",
}
