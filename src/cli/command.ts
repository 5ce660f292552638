import { flagsHelp, type Flags } from './flags.ts';

/** A subcommand of llama-duo. */
export type Command = {
  /** One line for the list of commands. */
  summary: string;
  /** What help shows before the flags. */
  usage: string;
  flags: Flags;
  /** Runs with the arguments after the command's name; the signal aborts when the user interrupts. */
  run: (args: readonly string[], signal: AbortSignal) => Promise<void>;
};

export function commandHelp(command: Command): string {
  return `${command.summary}\n\nUsage: llama-duo ${command.usage}\n\n${flagsHelp(command.flags)}\n`;
}
