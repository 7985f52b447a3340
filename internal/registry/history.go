package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"samehost/internal/hostid"
)

// Language is one of the languages that decisions are told in.
type Language string

// The languages.
const (
	English  Language = "en"
	Japanese Language = "ja"
)

// Event is one decision about identity, with what it was decided on.
type Event struct {
	ID       int64           `json:"id"`
	At       time.Time       `json:"at"`
	HostID   hostid.ID       `json:"host_id,omitzero"` // zero where the event is about no host
	Kind     string          `json:"kind"`
	Evidence json.RawMessage `json:"evidence"`
}

// Sentence tells the event in one sentence, with the words of the client in it as they came.
func (e Event) Sentence(l Language) string { return sentence(e.Kind, e.HostID, e.Evidence, l) }

// sentences tells every kind of event. {host_id} is the event's host ID, any other name in braces a field of its
// evidence.
var sentences = map[string]struct{ en, ja string }{
	"enrolled": {
		"{name} was enrolled under host ID {host_id} with token {token}; the ID is now bound to its key.",
		"{name} をホスト識別子 {host_id} でトークン {token} により登録し、識別子をその鍵に結び付けました。"},
	"enrolled-copy": {
		"{name} was enrolled under host ID {host_id} with token {token}; it says that its data was a copy of host ID {copy_of}.",
		"{name} をホスト識別子 {host_id} でトークン {token} により登録しました。データはホスト識別子 {copy_of} の複製であったと申告しています。"},
	"reinstalled": {
		"Host ID {host_id} was recognised after a new beginning ({epoch_by}): its report is signed with the bound key and does not come from another board, so it is the same asset.",
		"ホスト識別子 {host_id} を新しい開始 ({epoch_by}) の後に認識しました。報告は結び付けられた鍵で署名され、別の基板からではないため、同じ資産です。"},
	"reinstalled-waits": {
		"Host ID {host_id} began anew ({epoch_by}) with the bound key, not on another board: the same asset, pending until its former installation, heard {silent_s} second{silent_s:s} before, has been silent for three intervals.",
		"ホスト識別子 {host_id} が結び付けられた鍵で新しく開始しました ({epoch_by})。別の基板ではなく、同じ資産です。以前の環境からの報告が {silent_s} 秒前にあったため、3 間隔のあいだ途絶えるまで保留とします。"},
	"waits": {
		"Another line of reports of this asset, from host ID {host_id}, waits until the present one, heard {silent_s} second{silent_s:s} before, has been silent for three intervals.",
		"この資産の別の報告系列 (ホスト識別子 {host_id}) は、{silent_s} 秒前に報告のあった現在の系列が 3 間隔のあいだ途絶えるまで待機します。"},
	"keeps": {
		"The reports of host ID {host_id} (epoch {epoch}) now stand for the asset, since the former line has been silent for {silent_s} second{silent_s:s}.",
		"以前の報告系列が {silent_s} 秒間途絶えたため、ホスト識別子 {host_id} (エポック {epoch}) の報告が資産を代表します。"},
	"epoch-elsewhere": {
		"Host ID {host_id} began anew ({epoch_by}) with the bound key, but on another board: nothing of the asset was changed.",
		"ホスト識別子 {host_id} が結び付けられた鍵で新しく開始しました ({epoch_by}) が、別の基板です。資産は変更していません。"},
	"replaced": {
		"Host ID {new} took the place of host ID {old}, proved by the key of the old one; both are one asset.",
		"ホスト識別子 {new} が {old} に置き換わりました。古い識別子の鍵で証明されており、両者は一つの資産です。"},
	"replaced-unknown": {
		"Host ID {new} took the place of host ID {old}, which never enrolled here; it is kept as an alias of the asset.",
		"ホスト識別子 {new} が、ここに登録されたことのない {old} に置き換わりました。資産の別名として保持します。"},
	"fork": {
		"Two reports of host ID {host_id} follow the same one: a restored backup, a rolled back snapshot or a copy.",
		"ホスト識別子 {host_id} の二つの報告が同じ報告に続いています。バックアップの復元、スナップショットの巻き戻し、または複製です。"},
	"gap": {
		"A report of host ID {host_id} follows one that has not come; the line is kept open until it does.",
		"ホスト識別子 {host_id} の報告は、まだ届いていない報告に続くものです。届くまで系列を開いたままにします。"},
	"gap-closed": {
		"The missing report of host ID {host_id} has come; the line is whole again.",
		"ホスト識別子 {host_id} の欠けていた報告が届き、系列がつながりました。"},
	"facts": {
		"Known facts of the hardware of host ID {host_id} changed: {facts}.",
		"ホスト識別子 {host_id} のハードウェア情報が変わりました: {facts}。"},
	"observed": {
		"The client of host ID {host_id} reports \"{observed}\": {detail}",
		"ホスト識別子 {host_id} のクライアントからの報告「{observed}」: {detail}"},
	"initialized": {
		"{by} on {machine} initialized the memory of {target} for host IDs ({finished}).",
		"{machine} の {by} が、{target} のメモリをホスト識別子用に初期設定しました ({finished})。"},
	"initialized-already": {
		"{by} on {machine} found the memory of {target} initialized for host IDs already ({finished}).",
		"{machine} の {by} が初期設定を実行しましたが、{target} のメモリはホスト識別子用に初期設定済みでした ({finished})。"},
	"initialization-failed": {
		"{by} on {machine} could not initialize the memory of {target} ({finished}): {message_id} {cause}",
		"{machine} の {by} による {target} のメモリの初期設定は失敗しました ({finished}): {message_id} {cause}"},
	"initialization-moved": {
		"That somebody tried to initialize the memory of {target} ({finished}) belongs to host ID {to}, as its system UUID shows by now; it stood here because of its name, or because of a UUID that several PCs share.",
		"{target} のメモリの初期設定の結果 ({finished}) は、システム UUID によりホスト識別子 {to} のものと判明しました。名前、または複数の PC で共通の UUID により、ここに記録していました。"},
	"initialization-withdrawn": {
		"That somebody tried to initialize the memory of {target} ({finished}) is not about this asset, as system UUIDs show by now; which one it is about is not known.",
		"{target} のメモリの初期設定の結果 ({finished}) は、システム UUID によりこの資産のものではないと判明しました。どの資産のものかは不明です。"},
	"token-created": {
		"Enrolment token {token} was made.",
		"登録トークン {token} を作成しました。"},
	"token-used": {
		"Enrolment token {token} was used by host ID {host_id}.",
		"登録トークン {token} をホスト識別子 {host_id} が使用しました。"},
	"token-revoked": {
		"Enrolment token {token} was revoked.",
		"登録トークン {token} を失効させました。"},
	"relay-admitted": {
		"Host ID {host_id} was admitted as a relay with token {token}.",
		"ホスト識別子 {host_id} をトークン {token} により中継システムとして登録しました。"},
	"relay-certified": {
		"The relay of host ID {host_id} was given a certificate for {names}, valid until {until}.",
		"ホスト識別子 {host_id} の中継システムに {names} の証明書を発行しました (有効期限 {until})。"},
	"token-created-by": {
		"{who} made enrolment token {token}.",
		"{who} が登録トークン {token} を作成しました。"},
	"token-revoked-by": {
		"{who} revoked enrolment token {token}.",
		"{who} が登録トークン {token} を失効させました。"},
	"administrator-added": {
		"{who} made {name} an administrator.",
		"{who} が管理者 {name} を追加しました。"},
	"administrator-removed": {
		"{who} removed the administrator {name}.",
		"{who} が管理者 {name} を削除しました。"},
	"administrator-password": {
		"{who} changed the password of the administrator {name}.",
		"{who} が管理者 {name} のパスワードを変更しました。"},
	"run-started": {
		"{who} started run {run} ({source}): initialize the memory of {targets} PC{targets:s}.",
		"{who} が実行 {run} ({source}) を開始しました。{targets} 台の PC のメモリを初期設定します。"},
	"dry-run-started": {
		"{who} started run {run} ({source}): see whether the memory of {targets} PC{targets:s} can be initialized, and change nothing.",
		"{who} が実行 {run} ({source}) を開始しました。{targets} 台の PC のメモリを初期設定できるかどうかを確認するだけで、変更はしません。"},
	"run-cancelled": {
		"{who} called off run {run}: PCs that it has not begun with are left as they are.",
		"{who} が実行 {run} を取り消しました。開始していない PC には何もしません。"},
	"sysconfig-imported": {
		"{user} imported the system configuration information file {file}: new hosts: {added}, changed: {changed}, known: {unchanged}.",
		"{user} がシステム構成情報ファイル {file} を取り込みました。追加 {added} 台、変更 {changed} 台、変更なし {unchanged} 台です。"},
	"conflict-other-key": {
		"{name} reports under host ID {host_id}, but with another key than the ID is bound to; its reports are kept apart from the asset.",
		"{name} がホスト識別子 {host_id} で報告していますが、鍵が結び付けられたものと異なります。報告は資産とは別に保管します。"},
	"conflict-other-board": {
		"Host ID {host_id} reports with its own key from another board: main board replaced, disk moved, or data copied.",
		"ホスト識別子 {host_id} が自身の鍵で別の基板から報告しています。マザーボード交換、ディスク移設、またはデータの複製です。"},
	"conflict-same-board": {
		"{name} was enrolled under host ID {host_id}, but {other_name} (host ID {other_host}) is known on the same board, and nothing proves that both are one PC: a reinstallation that restored nothing, or values that several PCs share.",
		"{name} をホスト識別子 {host_id} で登録しましたが、同じ基板に {other_name} (ホスト識別子 {other_host}) が登録済みで、両者が同一の PC である証明がありません。何も復元できなかった再インストールか、複数の PC で共通の値です。"},
	"conflict-settled": {
		"Conflict {conflict} about host ID {host_id} was settled by proof: both host IDs are one asset.",
		"ホスト識別子 {host_id} に関する競合 {conflict} は、証明により解決しました。両方のホスト識別子は一つの資産です。"},
	"conflict-late": {
		"Conflict {conflict} about host ID {host_id} is closed: a report that came late shows that there was one system, not two.",
		"ホスト識別子 {host_id} に関する競合 {conflict} は、遅れて届いた報告によりシステムが一つと判明したため、終了しました。"},
	"conflict-original": {
		"Conflict {conflict} about host ID {host_id} is closed: the host ID that it was copied from was heard beside it, so they are two PCs.",
		"ホスト識別子 {host_id} に関する競合 {conflict} は、複製元のホスト識別子からも報告があり二台の PC と判明したため、終了しました。"},
	"conflict-overlap": {
		"Two systems of one asset, host IDs {host} and {other_host}, were alive at the same time for {seconds} seconds.",
		"一つの資産の二つのシステム (ホスト識別子 {host} と {other_host}) が {seconds} 秒間同時に動作していました。"},
	"conflict-replacement": {
		"The statement that host ID {old} was replaced does not hold ({reason}); the IDs stay apart.",
		"ホスト識別子 {old} が置き換えられたという申告は成立しません ({reason})。識別子は別々のままです。"},
	"conflict-overlap-shared": {
		"Two systems under host ID {host} were alive at the same time for {seconds} seconds and claim the same board by {shared}: values that several PCs share, or forged ones. Declare what is shared to be a placeholder, or decide.",
		"ホスト識別子 {host} の二つのシステムが {seconds} 秒間同時に動作し、{shared} により同じ基板であると主張しています。複数の PC で共通の値か、偽造された値です。共通の値を無効値として登録するか、判断してください。"},
	"conflict-closed": {
		"Conflict {conflict} about host ID {host_id} is closed: what was decided has been carried out.",
		"ホスト識別子 {host_id} に関する競合 {conflict} を終了しました。決定した内容は実行されました。"},
	"conflict-baseless": {
		"Conflict {conflict} about host ID {host_id} is closed: it rested on a value that is a placeholder.",
		"ホスト識別子 {host_id} に関する競合 {conflict} を終了しました。根拠は無効値でした。"},
	"conflict-counted": {
		"Conflict {conflict} about host ID {host_id} counts to another one from now on: several PCs share the same values.",
		"ホスト識別子 {host_id} に関する競合 {conflict} を別の競合に含めます。複数の PC で値が共通しています。"},
	"conflict-reopened": {
		"Conflict {conflict} about host ID {host_id} is open again.",
		"ホスト識別子 {host_id} に関する競合 {conflict} を再び未解決としました。"},
	"ordered": {
		"Host ID {host_id} is ordered: {order}",
		"ホスト識別子 {host_id} への指示: {order}"},
	"order-done": {
		"An order to host ID {host_id} was carried out and acknowledged under host ID {by}: {order}",
		"ホスト識別子 {host_id} への指示が実行され、ホスト識別子 {by} で確認されました: {order}"},
	"order-gone": {
		"An order to host ID {host_id} became void, since there is nothing left to carry it out for: {order}",
		"実行する対象がなくなったため、ホスト識別子 {host_id} への指示は無効になりました: {order}"},
	"order-withdrawn": {
		"An order to host ID {host_id} was withdrawn: {order}",
		"ホスト識別子 {host_id} への指示を取り消しました: {order}"},
	"order-failed": {
		"An order to host ID {host_id} was given {given} times and never acknowledged; it is given no more. See what runs there, and decide again: {order}",
		"ホスト識別子 {host_id} への指示を {given} 回送りましたが確認されませんでした。これ以上は送りません。動作しているプログラムを確認し、判断し直してください: {order}"},
	"order-full-report":     {"send a full report.", "完全な報告を送る。"},
	"order-new-epoch":       {"begin the reports anew.", "報告を新しく開始する。"},
	"order-new-id":          {"take a new host ID.", "新しいホスト識別子を取得する。"},
	"order-take-back":       {"take back the host ID that an order had replaced.", "指示により置き換えたホスト識別子に戻す。"},
	"order-rebind":          {"keep the host ID, and take the present board for its own.", "ホスト識別子を保ち、現在の基板を自身のものとする。"},
	"order-use-nonvolatile": {"take the host ID that nonvolatile memory holds.", "不揮発性メモリのホスト識別子を使用する。"},
	"resolved": {
		"{who} decided conflict {conflict} about host ID {host_id}: {verb}",
		"{who} がホスト識別子 {host_id} に関する競合 {conflict} を解決しました: {verb}"},
	"rule-decided": {
		"Rule {rule} decided conflict {conflict} about host ID {host_id}: {verb} {why}",
		"規則 {rule} がホスト識別子 {host_id} に関する競合 {conflict} を解決しました: {verb}{why}"},
	"rule-would": {
		"Rule {rule} only observes; it would decide conflict {conflict} about host ID {host_id}: {verb} {why}",
		"規則 {rule} は観察のみです。ホスト識別子 {host_id} に関する競合 {conflict} の解決案: {verb}{why}"},
	"rule-would-not": {
		"Rule {rule} would not decide conflict {conflict} about host ID {host_id}. {why}",
		"規則 {rule} は、ホスト識別子 {host_id} に関する競合 {conflict} を解決しません。{why}"},
	"rule-set": {
		"{who} set rule {rule} to {mode}.",
		"{who} が規則 {rule} を {mode} に設定しました。"},
	"undone": {
		"{who} undid what was decided about conflict {conflict} of host ID {host_id}: {verb}",
		"{who} がホスト識別子 {host_id} に関する競合 {conflict} の解決を取り消しました: {verb}"},
	"grouped": {
		"Host IDs {host} and {other} are one asset, as {who} decided.",
		"{who} の決定により、ホスト識別子 {host} と {other} を一つの資産としました。"},
	"amt-settings-set": {
		"{who} set the AMT management user that relays and clients are told: {user} (version {version}).",
		"{who} が中継システムおよびクライアントに通知する AMT 管理ユーザを設定しました: {user} (版 {version})。"},
	"amt-settings-set-for": {
		"{who} set the AMT management user that host ID {host_id} and what reports through it are told: {user} (version {version}).",
		"{who} がホスト識別子 {host_id} とその配下に通知する AMT 管理ユーザを設定しました: {user} (版 {version})。"},
	"amt-settings-cleared": {
		"{who} took back the AMT management user that relays and clients are told.",
		"{who} が中継システムおよびクライアントに通知する AMT 管理ユーザの設定を取り消しました。"},
	"amt-settings-cleared-for": {
		"{who} took back the AMT management user of host ID {host_id} and what reports through it.",
		"{who} がホスト識別子 {host_id} とその配下に通知する AMT 管理ユーザの設定を取り消しました。"},
	"placeholder-added": {
		"{who} declared the value {pattern} ({kind}) to prove nothing.",
		"{who} が値 {pattern} ({kind}) を無効値として登録しました。"},
	"placeholder-removed": {
		"{who} took the value {pattern} ({kind}) from the list of those that prove nothing.",
		"{who} が値 {pattern} ({kind}) を無効値の一覧から削除しました。"},
	"proposal":       {"{verb} {why}", "{verb}{why}"},
	"proposal-none":  {"Only an operator can decide. {why}", "管理者の判断が必要です。{why}"},
	"proposal-open":  {"Only an operator can decide.", "管理者の判断が必要です。"},
	"verb-merge":     {"It is one PC.", "同一の PC です。"},
	"verb-keep-both": {"They are two PCs.", "別々の PC です。"},
	"verb-block":     {"Its reports are kept, and change nothing.", "報告は保管しますが、何にも反映しません。"},
	"why-other-key": {
		"Whoever has another key proves nothing by the host ID; it takes one of its own.",
		"鍵が異なる場合、ホスト識別子は証明になりません。固有の識別子を取得させます。"},
	"why-overlap-board": {
		"One of them is on the board that is known; the other one is a copy.",
		"一方は登録済みの基板上にあります。もう一方は複製です。"},
	"why-overlap-disk": {
		"The boards cannot be told apart; one of them has the disk that is known, the other one is taken for the copy.",
		"基板は区別できません。一方のディスクが登録済みのため、もう一方を複製とみなします。"},
	"why-overlap-first": {
		"Neither board nor disk tells which one is the original; the one that was heard first keeps the host ID.",
		"基板からもディスクからも、元の PC を判別できません。先に報告のあったほうがホスト識別子を保持します。"},
	"why-overlap-unproven": {
		"Nothing proves that they are two: one PC looks the same whose reports were withheld on their way and arrive late.",
		"二台であるという証明がありません。一台の PC の報告が途中で止められ、遅れて届いた場合も同じように見えます。"},
	"why-overlap-shared": {
		"Both claim the same board while both are alive: a value that they share, or a forged one.",
		"両方が同時に動作しながら同じ基板であると主張しています。共通の値か、偽造された値です。"},
	"why-overlap-restored": {
		"The one that would have to go has restored its host ID from nonvolatile memory, and the other one has not.",
		"識別子を手放すべき側は不揮発性メモリから復元しており、もう一方は復元していません。"},
	"why-overlap-again": {
		"The PC on that board has taken new host IDs several times and comes back with this one: its disk seems to be set back at each start.",
		"その基板の PC は新しいホスト識別子を何度も取得し、この識別子に戻っています。起動のたびにディスクが元に戻されているようです。"},
	"why-overlap-hosts": {
		"Two host IDs of one asset are alive at the same time; they were joined without an operator and are separate again.",
		"一つの資産の二つのホスト識別子が同時に動作しています。管理者によらずに統合されたため、分離しました。"},
	"why-same-board-sure": {
		"At least two board facts agree and no fact differs, no other asset has them, and the former host ID has been silent for three intervals.",
		"基板の情報が二つ以上一致し、異なる情報はなく、他の資産にも同じ値はなく、以前のホスト識別子は 3 間隔のあいだ途絶えています。"},
	"why-same-board-live": {
		"The former host ID was heard within three intervals: two systems may be alive.",
		"以前のホスト識別子からの報告が 3 間隔以内にあります。二つのシステムが動作している可能性があります。"},
	"why-same-board-few":     {"Fewer than two board facts agree.", "一致する基板の情報が二つに足りません。"},
	"why-same-board-differs": {"A fact differs.", "異なる情報があります。"},
	"why-same-board-shared": {
		"Other assets have the same values: they may be shared by several PCs.",
		"他の資産にも同じ値があります。複数の PC で共通の値の可能性があります。"},
	"why-replacement-proof": {"The statement proves nothing by itself.", "この申告だけでは証明になりません。"},
	"why-other-board-sure": {
		"Disk and case are the known ones, the new board is no other asset's, and nobody else was heard under the host ID: the main board was replaced.",
		"ディスクと筐体は登録済みで、新しい基板は他の資産のものではなく、同じホスト識別子による他の報告もありません。マザーボードの交換です。"},
	"why-other-board-live": {
		"Another system was heard under this host ID within three intervals.",
		"このホスト識別子による別のシステムの報告が 3 間隔以内にあります。"},
	"why-other-board-copy": {
		"Board and disk are others than the known ones: a copy.",
		"基板もディスクも登録済みのものと異なります。複製です。"},
	"why-other-board-case": {
		"The case is another one: the disk was moved into another PC.",
		"筐体が異なります。ディスクが別の PC に移されています。"},
	"why-other-board-few": {
		"Disk or case are not known on both sides.",
		"ディスクまたは筐体の情報が一方にしかありません。"},
	"why-other-board-known": {
		"Another asset is known on that board.",
		"その基板には別の資産が登録済みです。"},
	"conflict-observed": {
		"The client of host ID {host_id} reports \"{observed}\", which has to be decided on: {detail}",
		"ホスト識別子 {host_id} のクライアントから判断の必要な報告「{observed}」: {detail}"},
	"conflict-observed-copied": {
		"{name} was enrolled under host ID {host_id} as a copy of host ID {other}. That one has not been heard since, and nothing tells their cases apart: perhaps both are one PC, with board and disk replaced.",
		"{name} をホスト識別子 {other} の複製としてホスト識別子 {host_id} で登録しましたが、それ以降 {other} からの報告がなく、筐体の情報にも相違がありません。基板とディスクを交換した同一の PC の可能性があります。"},
	"conflict-duplicate": {
		"{other_name} (host ID {other_host}) and {name} (host ID {host}) agree in {by}: {values}.",
		"{other_name} (ホスト識別子 {other_host}) と {name} (ホスト識別子 {host}) は {by} が一致しています: {values}。"},
	"deleted": {
		"{who} deleted asset {name} ({trigger}): deletion {deletion}. Nothing of it is erased.",
		"{who} が資産 {name} を削除しました ({trigger})。削除番号は {deletion} です。情報は消去していません。"},
	"restored": {
		"{who} restored asset {name} ({trigger}), which was deleted: deletion {deletion}.",
		"{who} が削除された資産 {name} を復元しました ({trigger})。削除番号は {deletion} です。"},
	"came-back": {
		"Asset {name} was deleted (deletion {deletion}), but its PC checked in with its key under host ID {host_id}: the asset is restored.",
		"資産 {name} は削除されていました (削除番号 {deletion}) が、その PC がホスト識別子 {host_id} の鍵で報告したため復元しました。"},
	"archived": {
		"Asset {name} was archived ({trigger}): it has not been heard since {since}.",
		"資産 {name} を保管庫に移しました ({trigger})。最後の報告は {since} です。"},
	"archive-held": {
		"Nothing was archived: {assets} of {of} assets would be at once, which have been silent for {days} day{days:s}. See whether a network is cut off; samehost-manager archive does it all the same.",
		"保管庫への移動を見合わせました。{days} 日間報告のない資産が {of} 台中 {assets} 台あります。ネットワークの障害がないか確認してください。移動する場合は samehost-manager archive を実行してください。"},
	"unarchived": {
		"{who} took asset {name} out of the archive ({trigger}).",
		"{who} が資産 {name} を保管庫から戻しました ({trigger})。"},
	"came-back-archived": {
		"The PC of asset {name} checked in again under host ID {host_id}: the asset is archived no longer.",
		"資産 {name} の PC がホスト識別子 {host_id} で再び報告したため、保管庫から戻しました。"},
	"retired": {
		"{who} retired asset {name} ({trigger}).",
		"{who} が資産 {name} を廃棄済みとしました ({trigger})。"},
	"unretired": {
		"{who} took back that asset {name} is retired ({trigger}).",
		"{who} が資産 {name} の廃棄を取り消しました ({trigger})。"},
	"heard-retired": {
		"The PC of host ID {host_id} is retired, but it checked in; it is served, and stays retired.",
		"ホスト識別子 {host_id} の PC は廃棄済みですが、報告がありました。応答しますが、廃棄済みのままです。"},
	"succeeded": {
		"{who} put {new_name} (host ID {new}) in the place of {old_name} (host ID {old}); the old PC is retired ({trigger}).",
		"{who} が {old_name} (ホスト識別子 {old}) を {new_name} (ホスト識別子 {new}) に置き換えました。古い PC は廃棄済みです ({trigger})。"},
	"unsucceeded": {
		"{who} took back that host ID {new} took the place of host ID {old} ({trigger}).",
		"{who} がホスト識別子 {old} から {new} への置き換えを取り消しました ({trigger})。"},
	"heard-succeeded": {
		"The PC of host ID {host_id} was succeeded by another one, but it checked in; it is served, and changes nothing of its successor.",
		"ホスト識別子 {host_id} の PC は別の PC に置き換え済みですが、報告がありました。応答しますが、後継の PC の情報は変更しません。"},
	"amt-cleared": {
		"{who} removed our application from the AMT of {name} at {address}.",
		"{who} が {address} の {name} の AMT からホスト識別子の領域の登録を削除しました。"},
	"amt-clear": {
		"{who} found nothing of ours to remove from the AMT of {name} at {address}.",
		"{who} が {address} の {name} の AMT を確認しましたが、削除すべき登録はありませんでした。"},
	"trigger-command":  {"by command", "コマンド"},
	"trigger-api":      {"over the API", "API"},
	"trigger-schedule": {"by schedule", "スケジュール"},
}

func sentence(kind string, host hostid.ID, evidence json.RawMessage, l Language) string {
	s, ok := sentences[kind]
	if !ok {
		return kind // written by a newer program
	}
	text := s.en
	if l == Japanese {
		text = s.ja
	}
	var fields map[string]any
	dec := json.NewDecoder(strings.NewReader(string(evidence)))
	dec.UseNumber()
	if err := dec.Decode(&fields); err != nil {
		fields = nil
	}
	// One pass: braces inside a client's words are words.
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "{")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		name, after, _ := strings.Cut(rest, "}")
		if name, plural := strings.CutSuffix(name, ":s"); plural {
			if fmt.Sprint(fields[name]) != "1" {
				b.WriteByte('s')
			}
			text = after
			continue
		}
		v, ok := fields[name]
		if languages, is := v.(map[string]any); is { // a Text
			v, ok = languages[string(l)]
		}
		if several, is := v.([]any); is {
			words := make([]string, len(several))
			for i, one := range several {
				words[i] = fmt.Sprint(one)
			}
			v = strings.Join(words, ", ")
		}
		switch {
		case name == "host_id":
			b.WriteString(host.String())
		case ok && (name == "why" || name == "verb" || name == "order" || name == "trigger"): // our own words, in every language
			b.WriteString(sentence(fmt.Sprint(name, "-", v), host, nil, l))
		case ok && v != "":
			fmt.Fprint(&b, v)
		default:
			b.WriteByte('?')
		}
		text = after
	}
}

// record writes an event into the history; host may be zero.
func (t *transaction) record(host hostid.ID, kind string, evidence map[string]any) error {
	if _, ok := sentences[kind]; !ok {
		panic("registry: no sentence for " + kind)
	}
	id := sql.NullString{String: host.String(), Valid: !host.IsZero()}
	_, err := t.exec(`INSERT INTO history (at, host_id, kind, evidence) VALUES ($1, $2, $3, $4)`, millis(t.now), id, kind, toJSON(evidence))
	return err
}

const historyColumns = `SELECT id, at, host_id, kind, evidence FROM history `

func scanEvent(scan func(...any) error) (e Event, err error) {
	var at int64
	var host sql.NullString
	var evidence string
	if err := scan(&e.ID, &at, &host, &e.Kind, &evidence); err != nil {
		return e, err
	}
	e.At, e.Evidence = fromMillis(at), json.RawMessage(evidence)
	if host.Valid {
		e.HostID, err = hostid.ParseID(host.String)
	}
	return e, err
}

// History returns every event, the oldest first.
func (r *Registry) History(ctx context.Context) ([]Event, error) {
	return scanAll(ctx, r.readers, scanEvent, historyColumns+`ORDER BY id`)
}

// HistoryOf returns the events of all host IDs of the asset that one of them names, the oldest first; ErrUnknown
// if it is no host ID of any asset.
func (r *Registry) HistoryOf(ctx context.Context, id hostid.ID) ([]Event, error) {
	events, err := scanAll(ctx, r.readers, scanEvent, historyColumns+`WHERE host_id IN
		(SELECT host_id FROM hosts WHERE asset_id = (SELECT asset_id FROM hosts WHERE host_id = $1)) ORDER BY id`, id.String())
	if err == nil && len(events) == 0 {
		return nil, fmt.Errorf("host ID %s: %w", id, ErrUnknown)
	}
	return events, err
}

type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func scanAll[T any](ctx context.Context, q queryer, scan func(func(...any) error) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}
