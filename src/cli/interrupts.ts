/** Who is told of an interrupt (Ctrl-C): the last of these, once. Where nobody is left, it ends the process. */
const listeners: (() => void)[] = [];

function deliver(): void {
  listeners.pop()?.();
  if (listeners.length === 0) process.off('SIGINT', deliver);
}

/** Hears the next interrupt before those who asked earlier; returns what takes that back. */
export function onInterrupt(listener: () => void): () => void {
  if (listeners.length === 0) process.on('SIGINT', deliver);
  listeners.push(listener);
  return () => {
    const index = listeners.lastIndexOf(listener);
    if (index >= 0) listeners.splice(index, 1);
    if (listeners.length === 0) process.off('SIGINT', deliver);
  };
}
